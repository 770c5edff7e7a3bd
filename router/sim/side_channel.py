"""How do other engines read the blocks of this one?

The server end of the side channel, at the `remote_host` and `remote_port` that this engine's handoffs name.
"""

import asyncio
from collections.abc import Callable

from router.sim.config import SimConfig
from router.sim.leases import Leases, UnknownBlockError
from router.sim.wire import Head, Wire, pack_blocks


def compatibility(config: SimConfig) -> str:
    """What must be the same on both engines of a pair; compared at the first handshake."""
    return f"{config.version}|{config.model}|{config.block_size_tokens}|{config.kv_bytes_per_token}"


class SideChannel:
    """Answers handshakes, pulls, notifications and heartbeats. A frozen engine's one takes them and says nothing.

    With the blocks goes how fast this end of the link is, `link_gb_per_s`, which may change.
    """

    def __init__(self, config: SimConfig, engine_id: str, leases: Leases) -> None:
        self.port = config.side_channel_port
        self.link_gb_per_s = config.link_gb_per_s
        self._config = config
        self._engine_id = engine_id
        self._leases = leases
        self._server: asyncio.Server | None = None
        self._wires: set[Wire] = set()
        self._unread: list[tuple[Wire, Head]] | None = None
        self._answers: dict[str, Callable[[Wire, Head], None]] = {
            "handshake": self._handshake,
            "pull": self._pull,
            "notify": self._notify,
            "heartbeat": self._heartbeat,
        }

    async def start(self, host: str) -> None:
        """Listen; the port is known afterwards."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        for wire in self._wires:
            wire.close()

    async def wait_closed(self) -> None:
        """Wait until every connection has ended."""
        await asyncio.gather(*(wire.closed for wire in self._wires))

    def freeze(self) -> None:
        """Read nothing any more."""
        self._unread = self._unread or []

    def thaw(self) -> None:
        """Answer what came in the meantime."""
        unread, self._unread = self._unread or [], None
        for wire, head in unread:
            self._received(wire, head, b"")

    def _accept(self) -> Wire:
        return Wire(self._received, self._wires.discard, self._wires.add)

    def _received(self, wire: Wire, head: Head, _tail: bytes) -> None:
        if self._unread is not None:
            self._unread.append((wire, head))
            return
        self._answers[head["op"]](wire, head)

    def _handshake(self, wire: Wire, head: Head) -> None:
        wire.send({"id": head["id"], "engine_id": self._engine_id, "compatibility": compatibility(self._config)})

    def _pull(self, wire: Wire, head: Head) -> None:
        try:
            contents = self._leases.read(head["request_id"], head["blocks"])
        except UnknownBlockError as error:
            wire.send({"id": head["id"], "error": str(error)})
        else:
            wire.send({"id": head["id"], "link_gb_per_s": self.link_gb_per_s}, pack_blocks(contents))

    def _notify(self, _wire: Wire, head: Head) -> None:
        self._leases.notified(head["request_id"])

    def _heartbeat(self, _wire: Wire, head: Head) -> None:
        self._leases.extend(head["request_ids"])
