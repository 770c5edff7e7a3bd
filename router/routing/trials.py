"""Which pair should a prompt try, as it is passed over? Whether a slow link was mended shows by a hand-over only.

A trial is a request of somebody, so there are few: `fleet.links` says when one is due, and that it should lose little.
What is expected to be slow is tried with short prompts, as they lose least.
"""

from collections.abc import Sequence

from router.fleet.backend import Backend
from router.fleet.links import TRIAL_LOSS_S
from router.routing.times import alone_s
from router.settings.routing import Routing


def to_try(
    prefill: Sequence[Backend], home: Backend, novel_tokens: int, rules: Routing, at: float, *, remote: bool
) -> Backend | None:
    """Of some engines the one that should hand a streamed prompt over to `home`, whatever else speaks against it.

    If the prompt is handed over anyway (`remote`), those are passed over that are far slower than the best; else all.
    """
    links = home.links
    if remote and not links.slow:
        return None
    if not remote and (new := links.new(engine.id for engine in prefill)):
        engine = next(engine for engine in prefill if engine.id == new)
        if _loss_s(engine, home, novel_tokens, rules, at) <= TRIAL_LOSS_S:
            return engine
    due = links.due(at)
    engines = {engine.id: engine for engine in prefill} if due else {}
    for link in due:
        if link.prefill not in engines or (remote and link.prefill not in links.slow):
            continue
        engine = engines[link.prefill]
        if links.may_lose(link, _loss_s(engine, home, novel_tokens, rules, at)):
            return engine
    return None


def _loss_s(engine: Backend, home: Backend, novel_tokens: int, rules: Routing, at: float) -> float:
    link = home.links.get(engine.id)
    took_s = link.seconds(novel_tokens) if link else None
    if took_s is None:
        took_s = home.links.at_least_s(engine.id, novel_tokens, at)
    return took_s - alone_s(novel_tokens, home, engine, rules)
