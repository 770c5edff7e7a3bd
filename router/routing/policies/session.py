"""The engine that a conversation had before, by what the client calls it: a hint, and no more.

Engines are remembered per session, the most recent sessions only, and per pool: the engine that computed a prompt and
the one that answered it are two bindings, each with its own policy. A hint is not followed where its engine is not to
be had, or has far more to do than another: clients name sessions as they like, also all of them the same.
"""

import random
from collections import OrderedDict
from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

from router.call import Call
from router.fleet.backend import Backend
from router.routing.policies.burden import pending_tokens, slowness, works
from router.routing.policies.least_loaded import LeastLoaded
from router.routing.policies.weights import Weights
from router.settings.routing import Routing

MAX_SESSIONS = 100_000
"""About 15 MB; a chat comes back within minutes or not at all."""


class Session:
    """Sticks to a session's engine unless that costs more than `ttft_slack_s`; else the least loaded.

    Sessions are kept as digests, engines by their ids: what is remembered does not grow with the names that clients
    think of, and keeps no engine that has left the fleet.
    """

    def __init__(self, rules: Routing, rng: random.Random) -> None:
        self._slack_tokens = rules.ttft_slack_s * rules.prefill_tokens_per_s
        self._otherwise = LeastLoaded(rng)
        self._engines: OrderedDict[int, str] = OrderedDict()

    def pick(self, candidates: Sequence[Backend], call: Call) -> Backend:
        """The session's engine, or a new one."""
        return self._home(candidates, call) or self._otherwise.pick(candidates, call)

    def took(self, call: Call, engine: Backend) -> None:
        """The session is bound to an engine."""
        if call.session is None:
            return
        session = _digest(call.model, call.session)
        self._engines[session] = engine.id
        self._engines.move_to_end(session)
        if len(self._engines) > MAX_SESSIONS:
            self._engines.popitem(last=False)

    def weigh(self, candidates: Sequence[Backend], call: Call) -> Weights[tuple[float, float]]:
        """The session's engine costs nothing; without one, all cost their work."""
        home = self._home(candidates, call)
        parts: dict[str, Sequence[object]] = {
            "pending_tokens": pending_tokens(candidates),
            "session": [engine is home for engine in candidates],
        }
        loads = zip(candidates, works(candidates, call, slowness(candidates)), strict=True)
        return Weights([(0.0, 0.0) if engine is home else work for engine, work in loads], parts)

    def _home(self, candidates: Sequence[Backend], call: Call) -> Backend | None:
        """The candidate that had the session before, unless it is too far behind the others."""
        known = call.session and self._engines.get(_digest(call.model, call.session))
        home = next((engine for engine in candidates if engine.id == known), None) if known else None
        return home if home is not None and not self._is_behind(home, candidates) else None

    def _is_behind(self, engine: Backend, candidates: Sequence[Backend]) -> bool:
        waits = pending_tokens(candidates)
        return waits[candidates.index(engine)] - min(waits) > self._slack_tokens


def _digest(model: str, session: str) -> int:
    return xxh3_64_intdigest(session.encode(), xxh3_64_intdigest(model.encode()))
