"""Which pair should a prompt try, as it is passed over? Whether a slow link was mended shows by a hand-over only.

A trial is a request of somebody, so there are few: `fleet.links` says when one is due, and that it should lose little.
What is expected to be slow is tried with short prompts, as they lose least.
"""

from collections.abc import Sequence

from router.fleet.backend import Backend
from router.routing.disaggregation import WEIGHED, Reason
from router.routing.policies.burden import tokens_ahead
from router.routing.times import alone_s
from router.settings.routing import Routing


def to_try(
    prefill: Sequence[Backend], home: Backend, novel_tokens: int, rules: Routing, at: float, reason: Reason
) -> Backend | None:
    """Of some engines the one that should hand a streamed prompt over to `home`, whatever else speaks against it.

    `reason` is that of the rule. If the prompt is handed over anyway, those are passed over that are far slower than
    the best; else all. New ones are tried only where it is the hand-over that speaks against two engines.
    """
    links, remote = home.links, reason not in WEIGHED
    if remote and not links.slow:
        return None
    wanted = [link.prefill for link in links.due(at) if not remote or link.prefill in links.slow]
    if reason is Reason.SLOW_HANDOVER and (new := links.new((engine.id for engine in prefill), at)):
        wanted.insert(0, new)
    engines = {engine.id: engine for engine in prefill} if wanted else {}
    for each in wanted:
        engine = engines.get(each)
        if engine is not None and links.may_lose(each, _loss_s(engine, home, novel_tokens, rules, at), at):
            return engine
    return None


def _loss_s(engine: Backend, home: Backend, novel_tokens: int, rules: Routing, at: float) -> float:
    """What the line on `engine` and the hand-over take beyond what `home` needs: computing is the same work on both."""
    link = home.links.get(engine.id)
    took_s = link.seconds(novel_tokens) if link else None
    if took_s is None:
        took_s = home.links.at_least_s(engine.id, novel_tokens, at)
    line_s = engine.paces.compute.s_per_token * tokens_ahead(engine)
    return line_s + took_s - alone_s(novel_tokens, home, engine, rules)
