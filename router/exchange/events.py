"""Server-sent events as bytes: where they begin and end, however the network cuts them, without parsing their JSON."""

from router.errors import BadAnswer

MAX_EVENT_BYTES = 1 << 20
"""One event is one step's tokens with their log-probabilities: some 100 KB at most."""

DONE = b"data: [DONE]"


END = b"\n\n"


class EventSplitter:
    """Cuts a stream's bytes into complete events, without their blank lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes. Raises `BadAnswer` when one is too long."""
        data = (self._rest + data) if self._rest else data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self._rest = data.split(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES or any(len(event) > MAX_EVENT_BYTES for event in events):
            raise BadAnswer(f"stream event larger than {MAX_EVENT_BYTES} bytes")
        return [event.lstrip(b"\n") for event in events if event.strip(b"\n")]

    @property
    def clean(self) -> bool:
        """No event is cut off."""
        return not self._rest.strip()


def is_comment(event: bytes) -> bool:
    """Keep-alive lines that say nothing."""
    return event.startswith(b":")
