"""How long would each way take? What has been learnt of two engines and the link between them, for one prompt.

The pair that is looked at is the decode engine that would answer and, of the prefill engines that may hand over to it,
the one that would have the prompt computed first. Where decode's own pace is not known, prefill's stands in for it when
a hand-over is judged, and the settings' where that is not known either: a slow link is ten times slower than both.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from router.call import Call
from router.fleet.backend import Backend
from router.routing.policies.burden import OTHERS_PROMPT_TOKENS, tokens_ahead
from router.settings.routing import Routing


class Times(NamedTuple):
    """Seconds until the first token, by what they are made of; None is not known.

    Over two engines `prefill_s` and `handover_s`, which takes `late_s` or longer by what the first hand-overs and those
    under way prove. On decode alone `stay_s`; its streams are held up for `stall_s`, taken together; `stay_is_known`:
    both are learnt from decode itself. `link_s` is what the pair needs for a prompt of `COMPARED_TOKENS`.
    """

    prefill_s: float | None
    handover_s: float | None
    stay_s: float
    stall_s: float
    stay_is_known: bool
    late_s: float = 0.0
    link_s: float | None = None

    @property
    def remote_s(self) -> float | None:
        """Over two engines; None while a part is not known."""
        if self.prefill_s is None or self.handover_s is None:
            return None
        return self.prefill_s + max(self.handover_s, self.late_s)

    def cost_of_staying_s(self, stall_weight: float) -> float:
        """On decode alone, its streams' waiting included."""
        return self.stay_s + stall_weight * self.stall_s


def times(
    call: Call, home: Backend, prefill: Sequence[Backend], held: Mapping[Backend, float], rules: Routing, at: float
) -> Times | None:
    """For `home` as the engine that answers, and the best of some `prefill` engines; None if nothing was learnt."""
    if not home.links or not prefill:
        return None
    first = _first(prefill, call.prompt_tokens, held)
    link = home.links.get(first.id)
    novel = _novel(call, held.get(home, 0))
    known_s = home.paces.compute.seconds(novel)
    own_s = known_s or alone_s(novel, home, first, rules)
    return Times(
        prefill_s=first.paces.compute.seconds(_novel(call, held.get(first, 0)), tokens_ahead(first)),
        handover_s=link.seconds(novel) if link else None,
        stay_s=alone_s(novel, home, first, rules, tokens_ahead(home)),
        stall_s=own_s * (home.load.requests + home.load.others_requests),
        stay_is_known=known_s is not None,
        late_s=home.links.at_least_s(first.id, novel, at),
        link_s=link.compared_s if link else None,
    )


def quick(prefill: Sequence[Backend], home: Backend, at: float) -> Sequence[Backend]:
    """Those whose link into `home` is not far slower than another's, if there are any."""
    slow = home.links.slow_now(at)
    return [engine for engine in prefill if engine.id not in slow] or prefill if slow else prefill


def alone_s(novel: int, home: Backend, prefill: Backend, rules: Routing, ahead: int = 0) -> float:
    """How long `home` would compute so many tokens, with those `ahead` of them in line, as far as that is known."""
    for pace in (home.paces.compute, prefill.paces.compute):
        if took_s := pace.seconds(novel, ahead):
            return took_s
    return (novel + ahead) / rules.prefill_tokens_per_s


def _first(prefill: Sequence[Backend], tokens: int, held: Mapping[Backend, float]) -> Backend:
    """The engine that would have a prompt computed first; one whose pace is not known goes before all others."""
    holds = held.get
    left_s = [  # no call per engine: it is done for each request
        ((load := engine.load).tokens + OTHERS_PROMPT_TOKENS * load.others_requests + tokens - holds(engine, 0))
        * engine.paces.compute.s_per_token
        for engine in prefill
    ]
    return prefill[left_s.index(min(left_s))]


def _novel(call: Call, held_tokens: float) -> int:
    return max(0, call.prompt_tokens - int(held_tokens))
