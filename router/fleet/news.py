"""Who hears that an engine may get other requests than before? Whoever keeps a list of those that may.

Every request asks which engines are usable, and hardly ever is that another answer than before. So it is kept, and the
engines say when it is void: as they become usable or unusable, and as they come to serve other models.
"""

from typing import Protocol
from weakref import WeakSet


class Hearer(Protocol):
    """Keeps what follows from the state of engines."""

    def engine_changed(self) -> None:
        """What was kept is void."""


class News:
    """Of one engine. Those who hear them are not kept alive by it."""

    __slots__ = ("_hearers",)

    def __init__(self) -> None:
        self._hearers: WeakSet[Hearer] = WeakSet()

    def heard_by(self, hearer: Hearer) -> None:
        """From now on; being told twice is no more than once."""
        self._hearers.add(hearer)

    def tell(self) -> None:
        """The engine may get other requests than before."""
        for hearer in self._hearers:
            hearer.engine_changed()

    def __repr__(self) -> str:
        return f"<News heard by {len(self._hearers)}>"
