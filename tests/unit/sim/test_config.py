"""Settings of an engine."""

import sys
from dataclasses import FrozenInstanceError

import pytest

from router.sim.config import SimConfig
from router.sim.latency import PROFILES


def test_the_defaults_are_an_engine() -> None:
    config = SimConfig()
    assert config.served_models == ("sim-8b",)
    assert config.context_tokens == 131_072
    assert config.block_bytes == 16 * 131_072
    assert config.latency is PROFILES["instant"]


def test_only_an_engine_of_a_pair_has_a_connector() -> None:
    assert SimConfig(role="prefill").has_connector
    assert SimConfig(role="decode").has_connector
    assert not SimConfig(role="aggregated").has_connector


def test_a_sequence_is_never_longer_than_the_pool() -> None:
    assert SimConfig(kv_blocks=10, block_size_tokens=16).context_tokens == 160


def test_it_answers_to_its_aliases() -> None:
    assert SimConfig(model="big", aliases=("small",)).served_models == ("big", "small")


def test_it_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        SimConfig().__setattr__("model", "other")


@pytest.mark.parametrize("name", ["kv_blocks", "block_size_tokens", "max_num_seqs", "link_gb_per_s"])
def test_nothing_can_be_of_size_0(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        SimConfig(**{name: 0})  # type: ignore[arg-type]


def test_an_unknown_gpu_names_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"gpu must be one of a100, .*, got 'abacus'"):
        SimConfig(gpu="abacus")


def test_kv_events_without_their_libraries_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgspec", None)
    with pytest.raises(ValueError, match=r"pip install 'pd-router\[kv-events\]'"):
        SimConfig(kv_events="tcp://*:5557")
