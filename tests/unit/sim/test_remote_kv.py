"""Reading kv_transfer_params."""

from typing import Any

import pytest

from router.sim.remote_kv import EngineDeathError, RemoteKv, remote_kv

PARAMS: dict[str, Any] = {
    "do_remote_prefill": True,
    "remote_engine_id": "engine",
    "remote_request_id": "request",
    "remote_host": "127.0.0.1",
    "remote_port": 5600,
    "remote_block_ids": [[4, 5, 6]],
}


def test_a_full_address() -> None:
    assert remote_kv(PARAMS) == RemoteKv("engine", "request", "127.0.0.1", 5600, (4, 5, 6), complete=True)


@pytest.mark.parametrize("params", [None, {}, {"do_remote_decode": True}, PARAMS | {"do_remote_prefill": False}])
def test_nothing_to_pull(params: dict[str, Any] | None) -> None:
    assert remote_kv(params) is None


@pytest.mark.parametrize("name", ["remote_engine_id", "remote_request_id", "remote_host", "remote_port"])
def test_a_missing_part_of_the_address(name: str) -> None:
    remote = remote_kv({key: value for key, value in PARAMS.items() if key != name})
    assert remote is not None
    assert not remote.complete


def test_the_last_blocks_are_taken() -> None:
    remote = remote_kv(PARAMS | {"remote_block_ids": [4, 5, 6]})
    assert remote is not None
    assert remote.last_blocks(3) == [4, 5, 6]
    assert remote.last_blocks(1) == [6]


@pytest.mark.parametrize("blocks", [None, [], [[]], [[4]], [["x", "y"]], "45", 7])
def test_too_few_blocks_are_deadly(blocks: object) -> None:
    remote = remote_kv(PARAMS | {"remote_block_ids": blocks})
    assert remote is not None
    with pytest.raises(EngineDeathError):
        remote.last_blocks(2)
