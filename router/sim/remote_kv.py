"""What do `kv_transfer_params` tell a decode engine?

The engine believes what it is given. Incomplete or senseless values hang it or kill it, as they do vLLM's.
"""

from dataclasses import dataclass
from typing import Any

_ADDRESS = ("remote_engine_id", "remote_request_id", "remote_host", "remote_port")


class EngineDeathError(Exception):
    """An assertion failed inside the engine: its process ends, and with it all it holds."""


@dataclass(frozen=True)
class RemoteKv:
    """Blocks of a finished prefill on another engine."""

    engine_id: str
    request_id: str
    host: str
    port: int
    blocks: tuple[int, ...] | None
    """None when the parameters name no blocks."""
    complete: bool
    """False when a part of the address is missing: the transfer never starts and never ends."""

    def last_blocks(self, count: int) -> list[int]:
        """The remote blocks for the last `count` local ones."""
        if not self.blocks or len(self.blocks) < count:
            raise EngineDeathError(f"{count} blocks to fill, remote blocks are {self.blocks}")
        return list(self.blocks[-count:])


def remote_kv(params: dict[str, Any] | None) -> RemoteKv | None:
    """The remote blocks that a request is to use, or None when it is to compute by itself."""
    if not params or params.get("do_remote_prefill") is not True:
        return None
    complete = all(name in params for name in _ADDRESS)
    port = params.get("remote_port")
    return RemoteKv(
        engine_id=str(params.get("remote_engine_id")),
        request_id=str(params.get("remote_request_id")),
        host=str(params.get("remote_host")),
        port=port if type(port) is int else 0,
        blocks=_blocks(params.get("remote_block_ids")),
        complete=complete,
    )


def _blocks(value: object) -> tuple[int, ...] | None:
    """Block numbers, flat or one list per KV cache group (of which there is one here)."""
    if not isinstance(value, list | tuple) or not value:
        return None
    group = value[0] if isinstance(value[0], list | tuple) else value
    if not all(type(block) is int for block in group):
        return None
    return tuple(group)
