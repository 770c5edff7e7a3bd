"""What Prometheus sees of the listeners: who is connected, and who was turned away before being a request."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from router.telemetry.metrics import PREFIX


class EdgeMetrics:
    """Counts of what the edge turned away; an `EdgeObserver`. Labels are names in the code, never a client's words."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._shed = Counter(f"{PREFIX}_shed", "Turned away for want of room.", ("reason",), registry=registry)
        self._refused = Counter(
            f"{PREFIX}_refused",
            "Connections closed over what is no request to be answered.",
            ("code",),
            registry=registry,
        )
        self._key_required = Gauge(f"{PREFIX}_key_required", "1 while clients need a key.", registry=registry)
        self._connections = Gauge(f"{PREFIX}_connections", "Clients connected to the data listener.", registry=registry)

    def shed(self, reason: str) -> None:
        """One more turned away for want of room."""
        self._shed.labels(reason).inc()

    def refused(self, code: str) -> None:
        """One more that was no request, or came too slowly."""
        self._refused.labels(code).inc()

    def key_required(self, required: bool) -> None:
        """Whether clients need a key."""
        self._key_required.set(required)

    def read_connections_from(self, count: Callable[[], float]) -> None:
        """Ask `count` when Prometheus asks."""
        self._connections.set_function(count)
