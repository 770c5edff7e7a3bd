"""Which pair should a prompt try, as it is passed over? Whether a slow link was mended shows by a hand-over only.

A trial is a request of somebody, so there are few: `fleet.links` says when one is due, and that it should lose little.
"""

from collections.abc import Sequence

from router.fleet.backend import Backend
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
    due = links.due(at)
    engines = {engine.id: engine for engine in prefill} if due else {}
    for link in due:
        engine = engines.get(link.prefill)
        if engine is None or (remote and link.prefill not in links.slow):
            continue
        loss_s = (link.seconds(novel_tokens) or 0.0) - alone_s(novel_tokens, home, engine, rules)
        if links.may_lose(link, loss_s):
            return engine
    return None
