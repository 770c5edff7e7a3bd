"""In which mode is a request routed? One for all, or two side by side, so that they can be compared on live traffic.

Which of two modes a request has follows from its id: at random over requests, the same for all tries of one, and told
again by whoever has the id.
"""

from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from router.settings.routing import Mode, Routing


@dataclass(frozen=True, slots=True)
class Modes:
    """A `share` of requests has `mode`, the rest `otherwise`."""

    mode: Mode
    share: float = 1.0
    otherwise: Mode = "local"

    @classmethod
    def configured(cls, rules: Routing) -> "Modes":
        """Those of the settings."""
        return cls(rules.mode, rules.mode_share, rules.mode_otherwise)

    def of(self, request_id: str) -> Mode:
        """The mode of one request."""
        if self.share >= 1 or xxh3_64_intdigest(request_id.encode()) < self.share * 2**64:
            return self.mode
        return self.otherwise

    def arm(self, request_id: str) -> str:
        """The mode of one request where two are compared, else nothing."""
        return self.of(request_id) if self.share < 1 else ""
