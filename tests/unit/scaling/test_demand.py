import pytest

from router.scaling.demand import DecodeLoad, PrefillLoad, Signal, decode_demand, prefill_demand
from router.settings.scaling import Autoscale

RULES = Autoscale(prefill_wait_s=0.5, inter_token_s=0.04)


@pytest.mark.parametrize(
    ("tokens_per_s", "tokens", "engines", "signal"),
    [
        (30_000, 5_000, 1.5, Signal.THROUGHPUT),
        (30_000, 25_000, 2.5, Signal.BACKLOG),  # 25k tokens are 1.25 s of an engine, and 0.5 s are allowed
        (0, 0, 0.0, Signal.THROUGHPUT),
    ],
)
def test_prefill_is_worth_what_comes_in_or_what_has_piled_up(
    tokens_per_s: float, tokens: float, engines: float, signal: Signal
) -> None:
    demand = prefill_demand(PrefillLoad(tokens_per_s, tokens, peak_tokens_per_s=20_000), RULES)
    assert (demand.engines, demand.signal) == (engines, signal)


@pytest.mark.parametrize(
    ("load", "engines", "signal"),
    [
        (DecodeLoad(300, 100, (0.5, 0.6), (0.01, 0.02)), 3.0, Signal.REQUESTS),
        (DecodeLoad(10, 100, (0.9, 0.9), (0.01, 0.02)), 1.8, Signal.KV_USAGE),
        (DecodeLoad(10, 100, (0.1, 0.1), (0.08, 0.02)), 2.5, Signal.INTER_TOKEN_TIME),
        (DecodeLoad(300, 0, (0.25,)), 0.25, Signal.KV_USAGE),  # without a limit, requests are no measure
    ],
)
def test_decode_is_worth_its_tightest_measure(load: DecodeLoad, engines: float, signal: Signal) -> None:
    demand = decode_demand(load, RULES)
    assert (round(demand.engines, 9), demand.signal) == (engines, signal)


def test_what_a_gateway_counts_itself_is_its_share_of_the_fleets() -> None:
    two = RULES.model_copy(update={"gateways": 2})
    assert prefill_demand(PrefillLoad(10_000, 0, 20_000), two).engines == 1.0
    decode = decode_demand(DecodeLoad(50, 100, (0.5,), (0.02,)), two)
    assert decode.signals == {Signal.REQUESTS: 1.0, Signal.KV_USAGE: 0.5, Signal.INTER_TOKEN_TIME: 0.5}
