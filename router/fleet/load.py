"""How much an engine has to do, as far as this gateway sent it."""

from dataclasses import dataclass


@dataclass(slots=True)
class Load:
    """Requests in flight and their prompt tokens (estimated)."""

    requests: int = 0
    tokens: int = 0
