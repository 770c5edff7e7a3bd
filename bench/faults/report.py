"""How do people read it? A Markdown table: a line for each scenario and router."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.compare.routers import Router
from bench.faults.fates import Fate
from bench.faults.scenarios import SCENARIOS
from bench.faults.trial import Result

COLUMNS = (
    *("scenario", "router", "tried", "right", "status", "event", "lost", "silent", "wrong"),
    *("slowest s", "prefills", "sent", "KV held", "running"),
)

LOST = (Fate.CUT, Fate.UNANSWERED)


def table(results: Sequence[Result]) -> Iterator[str]:
    """All scenarios in their order, all routers in that of the results; rounds are summed."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield f"|---|---|{'---:|' * (len(COLUMNS) - 2)}"
    for id_, scenario in SCENARIOS.items():
        title = f"**{id_}** {scenario.title}"
        own = [result for result in results if result.scenario == id_]
        for router in dict.fromkeys(result.router for result in own):
            cells = _cells([result for result in own if result.router == router])
            yield f"| {title} | {router} | {' | '.join(cells)} |"
            title = ""


def _cells(rounds: Sequence[Result]) -> Iterator[str]:
    fates = Counter[str]()
    for one in rounds:
        fates.update(one.fates)
    tried = fates.total()
    yield str(tried)
    if fates[Fate.LEFT] == tried:
        yield from ("",) * 7
    else:
        for group in ([Fate.RIGHT], [Fate.REFUSED], [Fate.BROKEN_OFF], LOST, [Fate.DISGUISED], [Fate.WRONG]):
            yield str(sum(fates[fate] for fate in group))
        yield f"{max(one.slowest_s for one in rounds):.1f}"
    yield _share(sum(one.prefills for one in rounds), tried)
    yield _share(sum(one.sent for one in rounds), tried)
    yield str(sum(one.handoffs_held for one in rounds))
    yield str(sum(one.still_running for one in rounds))


def _share(count: int, of: int) -> str:
    return f"{count / of:.2f}" if of else ""


def command_lines(routers: Sequence[Router], folder: Path) -> Iterator[str]:
    """How each router was started, in the folder of its files."""
    for router in routers:
        program, *arguments = router.command
        yield " ".join((Path(program).name, *arguments)).replace(f"{folder}/", "")
