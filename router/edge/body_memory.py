"""Is there room for more of a request's body? The bytes of all bodies that are being read or not yet parsed."""

from router.errors import Unavailable
from router.telemetry.events import EdgeObserver


class BodyMemory:
    """The bytes of all request bodies that are being read or not yet parsed."""

    def __init__(self, max_bytes: int, observer: EdgeObserver) -> None:
        self._max_bytes = max_bytes
        self._observer = observer
        self.held_bytes = 0

    def share(self) -> "BodyShare":
        """One request's share; used as a block, at whose end it is given back."""
        return BodyShare(self)

    def take(self, size_bytes: int) -> None:
        """Hold more. Raises `Unavailable` when all are at their limit."""
        if self.held_bytes + size_bytes > self._max_bytes:
            self._observer.shed("body_memory")
            raise Unavailable("the gateway has no room for more request bodies", code="body_memory")
        self.held_bytes += size_bytes


class BodyShare:
    """What one request holds of the memory for bodies."""

    __slots__ = ("_memory", "held_bytes")

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self.held_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Hold more. Raises `Unavailable`."""
        self._memory.take(size_bytes)
        self.held_bytes += size_bytes

    def give_back(self) -> None:
        """Hold nothing any more."""
        self._memory.held_bytes -= self.held_bytes
        self.held_bytes = 0

    def __enter__(self) -> "BodyShare":
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()
