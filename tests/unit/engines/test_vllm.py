import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.call import TOKEN_LIMITS, Api, Call, Trace, parse
from router.engines.handoff import HandoffState
from router.engines.vllm import VllmNixl, cache_tokens
from router.errors import BadAnswer, BadHandoff
from router.sim.config import SimConfig
from router.sim.ledger import Gauges
from router.sim.metrics import Counters, page
from router.usage import Usage
from tests.support.builders import a_call, a_completion, a_handoff, a_prefill_answer, a_source, kv_params
from tests.support.faults import blamed

VLLM = VllmNixl()

SCALARS = st.none() | st.booleans() | st.integers(-5, 50) | st.text(max_size=5)
NAMES = st.sampled_from(["min_tokens", "stream_options", "n", "temperature", "tools", "stop", "seed", *TOKEN_LIMITS])
FIELDS = st.dictionaries(NAMES | st.text(max_size=5).filter(lambda name: name not in ("model", "stream")), SCALARS)


def prefill(call: Call) -> dict[str, Any]:
    fields: dict[str, Any] = orjson.loads(VLLM.prefill_body(call))
    return fields


def decode(call: Call, parameters: dict[str, Any]) -> bytes:
    return VLLM.decode_body(call, a_handoff(call, parameters), now=1.0)


# The prefill leg


def test_prefill_is_asked_for_one_token_and_to_keep_the_kv() -> None:
    call = a_call(stream=True, stream_options={"include_usage": True}, min_tokens=5)
    assert prefill(call) == {
        "model": "sim-8b",
        "messages": call.fields["messages"],
        "max_tokens": 1,
        "n": 1,
        "stream": False,
        "kv_transfer_params": {"do_remote_decode": True},
    }


def test_every_limit_that_the_client_set_is_one() -> None:
    body = prefill(a_call(max_tokens=20, max_completion_tokens=30, max_output_tokens=None))
    assert [body[name] for name in TOKEN_LIMITS] == [1, 1, 1]


def test_a_limit_of_a_newer_name_is_not_doubled_by_the_old_one() -> None:
    call = parse(Api.CHAT, b'{"model":"m","messages":[],"max_completion_tokens":30}', Trace("r"))
    assert "max_tokens" not in prefill(call)


@given(FIELDS, st.sampled_from(Api), st.booleans())
def test_prefill_never_streams_never_makes_more_than_a_token_and_sees_the_same_prompt(
    fields: dict[str, Any], api: Api, stream: bool
) -> None:
    sent = fields | {"model": "m", "stream": stream}
    call = parse(api, orjson.dumps(sent), Trace("r"))
    body = prefill(call)
    limits = [body[name] for name in TOKEN_LIMITS if name in body]
    assert (body["stream"], body["n"], body["kv_transfer_params"]) == (False, 1, {"do_remote_decode": True})
    assert limits
    assert set(limits) == {1}
    assert not {"stream_options", "min_tokens"} & body.keys()
    touched = {*TOKEN_LIMITS, "stream", "n", "kv_transfer_params", "stream_options", "min_tokens"}
    assert {k: v for k, v in body.items() if k not in touched} == {k: v for k, v in sent.items() if k not in touched}


# What it answers


def test_the_claim_is_bound_to_its_call_and_ages_with_its_engine() -> None:
    call = a_call()
    handoff = VLLM.handoff(call, a_prefill_answer(kv_params()), a_source(unfinished_at=7.0))
    assert handoff is not None
    assert (handoff.call is call, handoff.unfinished_at, handoff.max_age_s) == (True, 7.0, 10.0)
    assert (handoff.state, handoff.usage) == (HandoffState.FRESH, Usage(147, 1, 96))
    assert orjson.loads(VLLM.decode_body(call, handoff, now=8.0))["kv_transfer_params"] == kv_params()


def test_a_good_claim_teaches_where_the_engines_kv_is() -> None:
    source = a_source()
    VLLM.handoff(a_call(), a_prefill_answer(kv_params()), source)
    assert source.peers == {"engine-1": ("127.0.0.1", 5600)}


def test_a_foreign_side_channel_is_refused() -> None:
    with blamed(BadHandoff, "kv_hosts"):
        VLLM.handoff(a_call(), a_prefill_answer(kv_params()), a_source(kv_hosts=("10.0.0.1",)))


def test_a_text_that_its_one_token_ended_needs_no_claim() -> None:
    answer = orjson.dumps({"choices": [{"finish_reason": "stop"}], "kv_transfer_params": None})
    assert VLLM.handoff(a_call(), answer, a_source()) is None


@pytest.mark.parametrize("choices", [[{"finish_reason": "length"}], [], None, [None], [{}], {"0": {}}])
def test_no_claim_without_that_reason_is_the_engines_fault(choices: object) -> None:
    with blamed(BadHandoff, "without kv_transfer_params"):
        VLLM.handoff(a_call(), orjson.dumps({"choices": choices}), a_source())


def test_a_malformed_claim_is_no_excuse_even_at_the_end_of_a_text() -> None:
    answer = a_prefill_answer({}, choices=[{"finish_reason": "stop"}])
    with pytest.raises(BadHandoff):
        VLLM.handoff(a_call(), answer, a_source())


@pytest.mark.parametrize("answer", [b"", b"{", b"<html>", b"[]", b"null", b'"text"'])
def test_an_answer_that_is_no_object_is_a_bad_answer(answer: bytes) -> None:
    with pytest.raises(BadAnswer):
        VLLM.handoff(a_call(), answer, a_source())


@pytest.mark.parametrize("usage", [None, [], {}, {"prompt_tokens_details": None}, {"prompt_tokens_details": {}}])
def test_cached_tokens_are_unknown_where_the_engine_tells_none(usage: object) -> None:
    handoff = VLLM.handoff(a_call(), a_prefill_answer(kv_params(), usage=usage), a_source())
    assert handoff is not None
    assert handoff.usage is None or handoff.usage.cached_tokens is None


# The decode leg


@pytest.mark.parametrize("call", [a_call(stream=True, n=1, min_tokens=2), a_completion(prompt=[1, 2])])
def test_decode_gets_the_clients_body_and_the_claim_verbatim(call: Call) -> None:
    assert decode(call, kv_params()) == call.body[:-1] + b',"kv_transfer_params":' + orjson.dumps(kv_params()) + b"}"


@given(FIELDS, st.dictionaries(st.text(), SCALARS))
def test_decode_sees_what_the_client_sent_and_prefill_returned(
    fields: dict[str, Any], parameters: dict[str, Any]
) -> None:
    sent = fields | {"model": "m"}
    body = orjson.loads(decode(parse(Api.CHAT, orjson.dumps(sent), Trace("r")), parameters))
    assert body == sent | {"kv_transfer_params": parameters}


def test_a_claim_is_spent_by_a_decode_body() -> None:
    call = a_call()
    handoff = a_handoff(call)
    VLLM.decode_body(call, handoff, now=1.0)
    with blamed(BadHandoff, "used twice"):
        VLLM.decode_body(call, handoff, now=1.0)


def test_an_old_claim_makes_no_decode_body() -> None:
    call = a_call()
    with blamed(BadHandoff, "11.0 s old"):
        VLLM.decode_body(call, a_handoff(call), now=11.0)


def test_a_claim_is_given_back_by_a_request_for_a_model_that_nobody_serves() -> None:
    handoff = a_handoff()
    body = orjson.loads(VLLM.release_body(handoff))
    assert body == {"model": "pd-router/release", "messages": [], "kv_transfer_params": kv_params()}
    assert handoff.state is HandoffState.SURRENDERED


def test_a_vllm_engine_can_work_alone() -> None:
    assert VLLM.decodes_alone
    assert VLLM.plain_body(call := a_call()) == call.body


# What a long prompt costs


@pytest.mark.parametrize("leg", ["prefill", "decode", "alone"])
def test_a_leg_writes_a_long_prompt_once(leg: str) -> None:
    text = 'def f(x):\n    return "y"\n' * 16_000
    call = a_call(messages=[{"role": "user", "content": text}])
    handoff = a_handoff(call)
    legs = {
        "prefill": lambda: VLLM.prefill_body(call),
        "decode": lambda: VLLM.decode_body(call, handoff, now=1.0),
        "alone": lambda: VLLM.plain_body(call),
    }
    tracemalloc.start()
    body = legs[leg]()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(body) > len(text) >= 400_000
    assert peak_bytes < 2 * len(body), "its buffer, which grows by doubling, and no copy beside it"


def test_what_is_let_go_is_not_kept_by_the_call() -> None:
    call = a_call()
    call.drop_body()
    assert (call.fields, call.body) == ({}, b"{}")


# How large its cache is


def test_the_size_of_a_cache_is_on_the_metrics_page() -> None:
    assert cache_tokens(page(SimConfig(block_size_tokens=16, kv_blocks=500), Counters(), Gauges())) == 8000


@pytest.mark.parametrize(
    ("labels", "tokens"),
    [
        ('block_size="16",cache_dtype="auto",mamba_block_size="None",num_gpu_blocks="27000"', 432_000),
        ('mamba_block_size="7",num_gpu_blocks="10",user_specified_block_size="5",block_size="4"', 40),
        ('block_size="16",num_gpu_blocks="None"', None),
        ('block_size="16",num_gpu_blocks="0"', None),
        ('block_size="16",num_gpu_blocks="99999999999999999999"', None),
        ('num_gpu_blocks="5"', None),
    ],
)
def test_the_labels_that_count(labels: str, tokens: int | None) -> None:
    other = 'other{block_size="1",num_gpu_blocks="1"} 1'
    text = f"# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{{{labels}}} 1.0\n{other}\n"
    assert cache_tokens(text.encode()) == tokens


def test_a_page_that_does_not_tell() -> None:
    assert cache_tokens(b"") is cache_tokens(b"vllm:num_requests_running 1\n") is None
