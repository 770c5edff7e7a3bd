"""The engine that a conversation had before, by what the client calls it: a hint, and no more.

Engines are remembered per session, the most recent sessions only. A hint is not followed where its engine is not to be
had, or has far more to do than another: clients name sessions as they like, also all of them the same.
"""

import random
from collections import OrderedDict
from collections.abc import Sequence

from router.call import Call
from router.fleet.backend import Backend
from router.routing.policies.burden import pending_tokens
from router.routing.policies.least_loaded import LeastLoaded
from router.settings import Routing

MAX_SESSIONS = 100_000
"""About 20 MB; a chat comes back within minutes or not at all."""


class Session:
    """Sticks to a session's engine unless that costs more than `ttft_slack_s`; else the least loaded."""

    def __init__(self, rules: Routing, rng: random.Random) -> None:
        self._slack_tokens = rules.ttft_slack_s * rules.prefill_tokens_per_s
        self._otherwise = LeastLoaded(rng)
        self._engines: OrderedDict[tuple[str, str], Backend] = OrderedDict()

    def pick(self, candidates: Sequence[Backend], call: Call) -> Backend:
        """The session's engine, or a new one that is remembered."""
        if call.session is None:
            return self._otherwise.pick(candidates, call)
        key = (call.model, call.session)
        engine = self._engines.pop(key, None)
        if engine is None or engine not in candidates or self._is_behind(engine, candidates):
            engine = self._otherwise.pick(candidates, call)
        self._engines[key] = engine
        if len(self._engines) > MAX_SESSIONS:
            self._engines.popitem(last=False)
        return engine

    def _is_behind(self, engine: Backend, candidates: Sequence[Backend]) -> bool:
        waits = pending_tokens(candidates)
        return waits[candidates.index(engine)] - min(waits) > self._slack_tokens
