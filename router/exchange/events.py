"""Server-sent events as bytes: what of an engine's stream goes on to the client, without parsing its JSON.

One reader serves both ways of relaying. Nearly every read is one event of one line that begins like the one before,
with the same id, time and model, so that only what follows is looked at; others hold several whole events and nothing
unusual, which a few searches tell; everything else (an event cut by the network, a comment, an error, CRLF, the event
with the usage) takes the long way. What does not look like JSON is parsed.
"""

from router.engines.dialect import Dialect
from router.errors import BadAnswer, ErrorEvent, OversizedAnswer
from router.exchange import judge, rewrite
from router.telemetry.events import GAPS_PER_BATCH, Journey

MAX_EVENT_BYTES = 1 << 20
"""One event is one step's tokens with their log-probabilities: some 100 KB at most."""

ORDINARY = b'data: {"'
ORDINARY_END = b"}\n\n"
DONE = b"data: [DONE]"
END = b"\n\n"
LAST = DONE + END

CHOICES = b'"choices":'
"""Up to here the events of a stream are the same."""

ERROR = b'"error"'
"""What every error has somewhere. In the text of an answer its quotes are escaped, but a text may be this one word."""


class EventStream:
    """Reads one stream, as `dialect` speaks. Notes events, their times and the usage in `journey`."""

    __slots__ = (
        "_alike",
        "_begun",
        "_clock",
        "_error_starts",
        "_gaps_s",
        "_journey",
        "_last_at",
        "_rest",
        "_shows_usage",
        "done",
    )

    def __init__(self, dialect: Dialect, journey: Journey, *, shows_usage: bool) -> None:
        self._error_starts = dialect.error_starts
        self._journey = journey
        self._clock = journey.clock
        self._gaps_s = journey.event_gaps_s
        self._shows_usage = shows_usage
        self._rest = bytearray()  # what has come of an event
        self._alike: bytes | None = None  # how ordinary events begin, while the next may be one
        self._begun = False
        self._last_at = 0.0
        self.done = False

    def take(self, data: bytes) -> bytes:
        """The complete events in the next bytes of the stream, as the client gets them; may be empty.

        `[DONE]` is kept back until the body has ended too. Raises `ErrorEvent` for an engine's error event,
        `BadAnswer` for what is no valid stream.
        """
        alike = self._alike
        if alike is not None and data.startswith(alike) and data[-3:] == ORDINARY_END:
            differs_at = len(alike)
            if data.find(b"\n", differs_at) == len(data) - 2 and data.find(rewrite.USAGE, differs_at) < 0:
                journey, gaps_s, now = self._journey, self._gaps_s, self._clock()
                gaps_s.append(now - self._last_at)
                self._last_at = now
                journey.events += 1
                journey.answer_bytes += len(data)
                if len(gaps_s) >= GAPS_PER_BATCH:
                    journey.paced()
                return data
        self._alike = None
        if self._rest or self.done:
            return self._take_several(data)
        if data == LAST:
            self.done = True
            return b""
        if self._is_ordinary(data):
            self._alike = self._beginning(data)
            return self._note(data, 1)
        return self._take_several(data)

    def end(self) -> None:
        """The body has ended. Raises `BadAnswer` when the stream had not."""
        if not self.done or self._rest.strip():
            raise BadAnswer("the stream ended without [DONE]")

    def _take_several(self, data: bytes) -> bytes:
        if self.done:
            raise BadAnswer("the stream went on after [DONE]")
        if self._rest or not data.endswith(END) or ERROR in data or b"\r" in data or rewrite.USAGE in data:
            return self._take_apart(data)
        events = data.removesuffix(LAST)
        count = events.count(END)
        if DONE in events or not _are_ordinary(events, count):
            return self._take_apart(data)
        self.done = len(events) < len(data)
        return self._note(events, count)

    def _is_ordinary(self, data: bytes) -> bool:
        """Whether it is one event of one line, and neither an error nor one with the usage."""
        one_line = data.find(b"\n") == len(data) - 2 and data[-3:] == ORDINARY_END and data.startswith(ORDINARY)
        harmless = one_line and not data.startswith(self._error_starts) and data.find(ERROR) < 0
        return harmless and data.find(rewrite.USAGE) < 0

    def _beginning(self, event: bytes) -> bytes | None:
        """How ordinary events begin until they differ; None where that does not tell them from errors.

        The name of the choices belongs to it: an error may begin with the same id and time, but has none.
        """
        until = event.find(CHOICES)
        return event[: until + len(CHOICES)] if until >= max(map(len, self._error_starts)) else None

    def _take_apart(self, data: bytes) -> bytes:
        whole = self._whole(data)
        if len(self._rest) > MAX_EVENT_BYTES or any(len(event) > MAX_EVENT_BYTES for event in whole):
            raise OversizedAnswer(f"stream event larger than {MAX_EVENT_BYTES} bytes")
        out = []
        for event in (event.lstrip(b"\n") for event in whole):
            if self.done and event:
                raise BadAnswer("the stream went on after [DONE]")
            out.append(self._take_one(event))
        out = [event for event in out if event]
        return self._note(END.join([*out, b""]) if out else b"", len(out))

    def _whole(self, data: bytes) -> list[bytes]:
        """The events that end in these bytes, without their ends; what follows the last is kept.

        An end may be cut, but what came before has none: an event in many pieces is looked at once.
        """
        rest = self._rest
        seen = max(len(rest) - 2, 0)
        rest += data
        if rest.find(END, seen) < 0 and rest.find(b"\n\r\n", seen) < 0:
            return []
        *whole, last = bytes(rest).replace(b"\r\n", b"\n").split(END)
        self._rest = bytearray(last)
        return whole

    def _take_one(self, event: bytes) -> bytes:
        """One event without its end, as the client gets it; empty for none."""
        if event.startswith(b":") or b"\n:" in event:
            event = b"\n".join(line for line in event.split(b"\n") if not line.startswith(b":"))
        if event.startswith(self._error_starts):
            raise ErrorEvent("an error event")
        if event == DONE:
            self.done = True
            return b""
        if event and (ERROR in event or not _are_ordinary(event + END, 1)):
            judge.check_event(event)
        return rewrite.event(event, self._journey, shows_usage=self._shows_usage)

    def _note(self, events: bytes, count: int) -> bytes:
        """Events of one read come at once, as the client sees them."""
        if count:
            now = self._clock()
            if self._begun:
                self._gaps_s.append(now - self._last_at)
            self._gaps_s += [0.0] * (count - 1)
            self._begun, self._last_at = True, now
            self._journey.events += count
            self._journey.answer_bytes += len(events)
            if len(self._gaps_s) >= GAPS_PER_BATCH:
                self._journey.paced()
        return events


def _are_ordinary(events: bytes, count: int) -> bool:
    """Whether each of them looks like one line with a JSON object; a look at both its ends is all that it gets."""
    starts = events.startswith(ORDINARY) + events.count(END + ORDINARY)
    return starts == count == events.count(ORDINARY_END) and events.count(b"\n") == len(END) * count
