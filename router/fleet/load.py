"""How much has an engine to do: what this gateway sent it, and what others did."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Load:
    """Requests in flight and their prompt tokens (estimated); on a prefill engine, those that it has to compute.

    `ever` counts all requests that there have been.

    `local_tokens` are those that the engine computes beside its streams, until their answers begin.
    """

    requests: int = 0
    tokens: int = 0
    local_tokens: int = 0
    ever: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Others:
    """What an engine says it has beside what this gateway sent it: requests, and tokens of KV in use.

    Of several gateways in front of one fleet each sees the others' load this way, a scrape late. Never negative: what
    an engine has not heard of yet, or has finished already, is this gateway's own.
    """

    requests: int = 0
    kv_tokens: int = 0


NO_OTHERS = Others()
"""Also while the engine's own count is not known."""
