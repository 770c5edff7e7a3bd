"""Engines that do both phases themselves: they get the client's body as it is."""

from router.call import Call


class Plain:
    """The dialect of aggregated engines: OpenAI's API and nothing beside it."""

    name = "plain"

    def plain_body(self, call: Call) -> bytes:
        """The client's body as it is."""
        return call.body

    def is_error(self, event: bytes) -> bool:
        """Whether an event carries an `error` object at its start, as engines report failures inside a 200 stream."""
        return event.startswith((b'data: {"error"', b'data:{"error"'))
