"""The latency model against the measurements that it was fitted to."""

import pytest

from router.sim.latency import H200, PROFILES, PrefillChunk


@pytest.mark.parametrize(
    ("tokens", "measured_s"), [(128, 0.013), (512, 0.019), (2048, 0.055), (8192, 0.22), (32000, 1.19)]
)
def test_prefill_is_as_measured(tokens: int, measured_s: float) -> None:
    assert H200.prefill_s(tokens) == pytest.approx(measured_s, rel=0.15)


@pytest.mark.parametrize(
    ("streams", "context", "measured_s"),
    [(1, 512, 4.6e-3), (16, 512, 4.9e-3), (64, 512, 6.3e-3), (128, 512, 8.5e-3), (1, 4096, 4.7e-3), (16, 4096, 6.7e-3)],
)
def test_decode_is_as_measured(streams: int, context: int, measured_s: float) -> None:
    step_s = H200.step_s(decode_seqs=streams, decode_kv_tokens=streams * context, chunks=[])
    assert step_s == pytest.approx(measured_s, rel=0.1)


def test_chunks_cost_what_the_whole_prompt_does_but_for_the_steps() -> None:
    steps = [
        H200.step_s(decode_seqs=0, decode_kv_tokens=0, chunks=[PrefillChunk(8000, context)])
        for context in range(0, 32000, 8000)
    ]
    per_step_s = H200.decode_base_s + H200.prefill_base_s
    assert sum(steps) - 4 * per_step_s == pytest.approx(H200.prefill_s(32000) - per_step_s)


def test_a_long_prompt_holds_up_every_stream_on_the_engine() -> None:
    alone_s = H200.step_s(decode_seqs=64, decode_kv_tokens=64 * 4096, chunks=[])
    stalled_s = H200.step_s(decode_seqs=64, decode_kv_tokens=64 * 4096, chunks=[PrefillChunk(8192, 0)])
    assert stalled_s > 10 * alone_s


def test_other_gpus_follow_from_compute_and_bandwidth() -> None:
    h100, a100, instant = PROFILES["h100"], PROFILES["a100"], PROFILES["instant"]
    assert h100.prefill_per_token_s == H200.prefill_per_token_s
    assert h100.decode_base_s > H200.decode_base_s
    assert a100.prefill_s(8192) > 2 * H200.prefill_s(8192)
    assert instant.step_s(decode_seqs=9, decode_kv_tokens=999, chunks=[PrefillChunk(99, 0)]) == 0
