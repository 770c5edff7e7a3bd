"""Engines that do both phases themselves: they get the client's body as it is."""

from router.call import Call


class Plain:
    """The dialect of aggregated engines: OpenAI's API and nothing beside it."""

    name = "plain"
    error_starts: tuple[bytes, ...] = (b'data: {"error"', b'data:{"error"')

    def plain_body(self, call: Call) -> bytes:
        """The client's body as it is."""
        return call.body
