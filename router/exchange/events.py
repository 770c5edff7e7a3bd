"""Server-sent events as bytes: what of an engine's stream goes on to the client, without parsing its JSON.

One reader serves both ways of relaying. Most reads hold whole events and nothing unusual, which a few searches tell;
everything else (an event cut by the network, a comment, an error, CRLF, the event with the usage) takes the long way.
"""

from collections.abc import Callable

from router.errors import BadAnswer, EngineError
from router.exchange import rewrite
from router.telemetry.events import Journey

MAX_EVENT_BYTES = 1 << 20
"""One event is one step's tokens with their log-probabilities: some 100 KB at most."""

DONE = b"data: [DONE]"
END = b"\n\n"
LAST = DONE + END


class EventStream:
    """Reads one stream; `is_error` is the dialect's. Notes events and their times in `journey`."""

    def __init__(self, is_error: Callable[[bytes], bool], journey: Journey, prefill_cached_tokens: int | None) -> None:
        self._is_error = is_error
        self._journey = journey
        self._prefill_cached_tokens = prefill_cached_tokens
        self._rest = b""
        self._last_at: float | None = None
        self.done = False

    def take(self, data: bytes) -> bytes:
        """The complete events in the next bytes of the stream, as the client gets them; may be empty.

        `[DONE]` is kept back until the body has ended too. Raises `EngineError` for an engine's error event,
        `BadAnswer` for what is no valid stream.
        """
        if self.done:
            raise BadAnswer("the stream went on after [DONE]")
        if self._rest or not data.endswith(END) or b'{"error"' in data or b"\n:" in data or b"\r" in data:
            return self._take_apart(data)
        if data[:1] == b":" or (self._prefill_cached_tokens is not None and rewrite.USAGE in data):
            return self._take_apart(data)
        events = data.removesuffix(LAST)
        if DONE in events:
            return self._take_apart(data)
        self.done = len(events) < len(data)
        self._note(events.count(END))
        return events

    def end(self) -> None:
        """The body has ended. Raises `BadAnswer` when the stream had not."""
        if not self.done or self._rest.strip():
            raise BadAnswer("the stream ended without [DONE]")

    def _take_apart(self, data: bytes) -> bytes:
        data = (self._rest + data).replace(b"\r\n", b"\n")
        *whole, self._rest = data.split(END)
        if len(self._rest) > MAX_EVENT_BYTES or any(len(event) > MAX_EVENT_BYTES for event in whole):
            raise BadAnswer(f"stream event larger than {MAX_EVENT_BYTES} bytes")
        out = []
        for event in (event.lstrip(b"\n") for event in whole):
            if self.done and event:
                raise BadAnswer("the stream went on after [DONE]")
            if self._is_error(event):
                raise EngineError("an error event")
            if event == DONE:
                self.done = True
            elif event and not event.startswith(b":"):
                out.append(rewrite.event(event, self._prefill_cached_tokens))
        self._note(len(out))
        return END.join([*out, b""]) if out else b""

    def _note(self, events: int) -> None:
        """Events of one read come at once, as the client sees them."""
        if not events:
            return
        now = self._journey.clock()
        gaps_s = [] if self._last_at is None else [now - self._last_at]
        self._journey.passed(events, gaps_s + [0.0] * (events - 1) if events > 1 else gaps_s)
        self._last_at = now
