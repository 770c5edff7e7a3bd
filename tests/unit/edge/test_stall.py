from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from router.edge.stall import LOOKS, Stall
from tests.support.client_side import ClientTransport

WAIT_S = 8.0
LOOK_S = WAIT_S / LOOKS


class Handle:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Loop:
    """A loop with one timer at a time, which a test fires."""

    timers: list[tuple[float, Any, Handle]] = field(default_factory=list)

    def call_later(self, wait_s: float, callback: Any) -> Handle:
        self.timers.append((wait_s, callback, Handle()))
        return self.timers[-1][-1]

    def fire(self) -> None:
        ((wait_s, callback, handle),) = self.timers
        assert wait_s == LOOK_S
        self.timers.clear()
        if not handle.cancelled:
            callback()


@pytest.fixture
def client() -> ClientTransport:
    transport = ClientTransport()
    transport.unsent_bytes = 1000
    return transport


def looks_until_dropped(loop: Loop, client: ClientTransport, unsent_bytes: list[int]) -> int | None:
    """The number of the look, from 1, at which the client is dropped."""
    for number, unsent in enumerate(unsent_bytes, 1):
        client.unsent_bytes = unsent
        loop.fire()
        if client.ended:
            assert (client.ended, loop.timers) == ("aborted", [])
            return number
    return None


@pytest.mark.parametrize(
    ("unsent_bytes", "dropped_at"),
    [
        ([1000] * 9, LOOKS),
        ([999, *[999] * 9], LOOKS + 1),
        ([1000, 1000, 1000, 999, 999, 999, 999, 999], 8),
        ([1000 - taken for taken in range(1, 100)], None),
        ([5000, 4999, 4998, 4997, 4996, 4995], None),
        ([1001, 1002, 1003, 1004, 1005], LOOKS),
    ],
    ids=["takes nothing", "takes one byte", "a byte in time", "takes little", "got more at first", "only gets more"],
)
def test_who_takes_nothing_for_so_long_is_dropped(
    client: ClientTransport, unsent_bytes: list[int], dropped_at: int | None
) -> None:
    loop = Loop()
    Stall(cast("Any", loop), client, WAIT_S)
    assert looks_until_dropped(loop, client, unsent_bytes) == dropped_at


def test_ended_it_drops_nobody(client: ClientTransport) -> None:
    loop = Loop()
    stall = Stall(cast("Any", loop), client, WAIT_S)
    for _ in range(LOOKS - 1):
        loop.fire()
    stall.end()
    loop.fire()
    assert client.ended == ""
