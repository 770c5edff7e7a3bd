"""How much an engine has to do, as far as this gateway sent it."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Load:
    """Requests in flight and their prompt tokens (estimated); `ever` counts all requests that there have been.

    `local_tokens` are those of prompts that the engine computes beside its streams, until their answers begin.
    """

    requests: int = 0
    tokens: int = 0
    local_tokens: int = 0
    ever: int = field(default=0, compare=False)
