"""Which pair should a prompt try, as it is passed over? Whether a slow link was mended shows by a hand-over only.

A trial is a request of somebody, so there are few: `fleet.links` says when one is due, and that it should lose little.
What is expected to be slow is tried with short prompts, as they lose least.
"""

from collections.abc import Sequence

from router.fleet.backend import Backend
from router.fleet.links import TRIAL_LOSS_S
from router.routing.times import alone_s
from router.settings import Routing


def to_try(
    prefill: Sequence[Backend], home: Backend, novel_tokens: int, rules: Routing, at: float, *, remote: bool
) -> Backend | None:
    """Of some engines the one that should hand a streamed prompt over to `home`, whatever else speaks against it.

    If the prompt is handed over anyway (`remote`), those are passed over that are far slower than the best; else all.
    """
    links = home.links
    if remote and not links.slow:
        return None
    engines = {engine.id: engine for engine in prefill}

    def loss_s(prefill_id: str) -> float:
        return _loss_s(engines[prefill_id], home, novel_tokens, rules, at)

    for prefill_id in () if remote else links.new(engines):
        if loss_s(prefill_id) <= TRIAL_LOSS_S:
            return engines[prefill_id]
    for link in links.due(at):
        if link.prefill not in engines or (remote and link.prefill not in links.slow):
            continue
        if links.may_lose(link, loss_s(link.prefill)):
            return engines[link.prefill]
    return None


def _loss_s(engine: Backend, home: Backend, novel_tokens: int, rules: Routing, at: float) -> float:
    link = home.links.get(engine.id)
    took_s = link.seconds(novel_tokens) if link else None
    if took_s is None:
        took_s = home.links.at_least_s(engine.id, novel_tokens, at)
    return took_s - alone_s(novel_tokens, home, engine, rules)
