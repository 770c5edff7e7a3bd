import pytest

from router.doctor import advice
from router.errors import BadHandoff, ConnectFailed, EngineError, EngineFault, EngineTimeout, Leg
from router.fleet.backend import Backend
from router.fleet.identity import Identity
from router.settings.engines import BackendSettings, Role
from router.settings.fleet import Probes
from tests.support.builders import a_backend


def engine(role: Role, address: str, **settings: tuple[str, ...]) -> Backend:
    return Backend(BackendSettings(url=f"http://{address}", role=role, **settings), Probes(), now=0)


P = engine(Role.PREFILL, "10.0.0.11:8200")
D = engine(Role.DECODE, "10.0.0.21:8201")


@pytest.mark.parametrize(
    ("why", "told"),
    [
        ("probe failed: connect_failed", "is it started"),
        ("probe failed: out_of_files", "ulimit"),
        ("probe failed: timeout", "frozen or overloaded"),
        ("/v1/models answered 401", "backends.key_env"),
        ("does not serve m, which is configured for it", "backends.models"),
        ("/v1/models is not a list of models", "OpenAI-compatible"),
        ("/health answered 503", "log"),
    ],
)
def test_for_engines_that_cannot_be_used(why: str, told: str) -> None:
    assert told in advice.for_engine(D, why)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (BadHandoff("prefill answer without kv_transfer_params").in_leg(Leg.PREFILL), "kv_producer"),
        (EngineError("answered 401", 401).in_leg(Leg.PREFILL), "API key of 10.0.0.11:8200"),
        (EngineError("answered 401", 401).in_leg(Leg.DECODE), "API key of 10.0.0.21:8201"),
        (EngineError("answered 500").in_leg(Leg.PREFILL), "the log of 10.0.0.11:8200"),
        (EngineTimeout("slow").in_leg(Leg.PREFILL), "the log of 10.0.0.11:8200"),
        (EngineError("answered 500").in_leg(Leg.DECODE), "VLLM_NIXL_SIDE_CHANNEL_HOST:PORT"),
        (EngineTimeout("slow").in_leg(Leg.DECODE), "can VLLM_NIXL_SIDE_CHANNEL_HOST:PORT"),
        (ConnectFailed("refused").in_leg(Leg.DECODE), "is 10.0.0.21:8201 up?"),
    ],
)
def test_for_pairs_that_failed(fault: EngineFault, told: str) -> None:
    assert told in advice.for_fault(fault, P, D)


def test_for_a_side_channel_that_the_settings_do_not_allow() -> None:
    fault = BadHandoff("kv_transfer_params.remote_host is not one of the engine's kv_hosts").in_leg(Leg.PREFILL)
    told = advice.for_fault(fault, engine(Role.PREFILL, "10.0.0.11:8200", kv_hosts=("10.1.0.11",)), D)
    assert "backends.kv_hosts (now 10.1.0.11)" in told


def test_the_side_channel_is_named_once_it_is_known() -> None:
    prefill = engine(Role.PREFILL, "10.0.0.11:8200")
    prefill.kv_peers.update({"before": ("10.0.0.11", 5599), "now": ("10.0.0.11", 5600)})
    assert "can 10.0.0.11:5600 (KV side channel of 10.0.0.11:8200) be reached?" in advice.for_failed_pull(prefill, D)
    assert "hides that the pull failed" in advice.for_computed_prompt(prefill, D)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_side_channel_on_loopback_is_only_for_engines_of_one_host(host: str) -> None:
    prefill, same = engine(Role.PREFILL, "10.0.0.11:8200"), engine(Role.DECODE, "10.0.0.11:8201")
    prefill.kv_peers["now"] = (host, 5600)
    assert "set to an address that 10.0.0.21:8201 can reach" in advice.for_failed_pull(prefill, D)
    assert "can reach" not in advice.for_failed_pull(prefill, same)


def test_for_engines_without_partner_or_connector() -> None:
    lone = a_backend("decode")
    lone.learn(Identity("0.31.0", ("m",)))
    assert "'0.31.0 m'" in advice.for_lone_engine(lone)
    assert "kv_consumer" in advice.for_missing_connector(lone)
