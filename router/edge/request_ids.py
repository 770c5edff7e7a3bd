"""How is a request named? By an id of the gateway's own, never by one that a client sends."""

import itertools
import secrets


class RequestIds:
    """Ids that are unique over gateways and restarts: a random prefix and a counter."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def new(self) -> str:
        """The next id."""
        return f"{self._prefix}-{next(self._numbers):x}"
