from dataclasses import dataclass, field
from typing import Any

import pytest

from router.bench.replay.engines import CHUNK_TOKENS, DecodeEngine, PrefillEngine, chunks
from router.bench.replay.kv_cache import KvCache
from router.bench.replay.timeline import Timeline
from router.bench.replay.trace import Request
from router.sim.latency import H200, LatencyProfile, PrefillChunk
from tests.support.traces import a_request

EVEN = LatencyProfile(0.01, 0.0, 0.0, 0.0, 1e-4, 0.0)
"""A step takes 10 ms, and 0.1 ms for each token of a prompt."""

LINK_TOKENS_PER_S = 10_000
ROOM = 10**6


@dataclass
class Seen:
    """When prompts were computed, streams began and ended."""

    timeline: Timeline = field(default_factory=Timeline)
    events: list[tuple[str, float, Any]] = field(default_factory=list)

    def prefill(self, profile: LatencyProfile = EVEN) -> PrefillEngine:
        return PrefillEngine(self.timeline, profile, KvCache(ROOM))

    def decode(self, profile: LatencyProfile = EVEN, capacity_tokens: int = ROOM) -> DecodeEngine:
        return DecodeEngine(self.timeline, profile, KvCache(capacity_tokens), LINK_TOKENS_PER_S)

    def computed(self, name: str) -> Any:
        return lambda cached: self.events.append((name, round(self.timeline.now_s, 6), cached))

    def stream(self, engine: DecodeEngine, name: str, request: Request, *, local: bool = False) -> None:
        def submit() -> None:
            engine.submit(
                request,
                lambda at_s, cached: self.events.append((f"{name} began", round(at_s, 6), cached)),
                lambda: self.events.append((f"{name} ended", round(self.timeline.now_s, 6), None)),
                local=local,
            )

        self.timeline.at(request.at_s, submit)

    def at(self, event: str) -> float:
        return next(at_s for name, at_s, _ in self.events if name == event)


def test_a_prompt_is_computed_in_chunks_behind_what_is_cached() -> None:
    assert chunks(CHUNK_TOKENS + 5, 100) == [PrefillChunk(CHUNK_TOKENS, 100), PrefillChunk(5, CHUNK_TOKENS + 100)]
    assert chunks(0, 100) == []


def test_prompts_are_computed_one_after_the_other_and_find_what_the_one_before_left() -> None:
    seen = Seen()
    engine = seen.prefill()
    engine.submit(a_request("ab"), seen.computed("first"))
    engine.submit(a_request("abc"), seen.computed("second"))
    seen.timeline.run()
    first_s = 0.01 + 1024e-4
    assert seen.events == [("first", round(first_s, 6), 0), ("second", round(first_s + 0.01 + 512e-4, 6), 1024)]
    assert sum(engine.work_s.values()) == pytest.approx(first_s + 0.01 + 512e-4)


def test_a_lone_prompt_takes_what_the_profile_says() -> None:
    seen = Seen()
    seen.prefill(H200).submit(a_request("abcd"), seen.computed("done"))
    seen.timeline.run()
    assert seen.at("done") == pytest.approx(H200.prefill_s(2048), abs=1e-6)


def test_a_stream_begins_when_its_kv_is_there_and_has_a_token_a_step() -> None:
    seen = Seen()
    seen.stream(seen.decode(), "a", a_request("ab", output_tokens=50))
    seen.timeline.run()
    assert seen.at("a began") == pytest.approx(1024 / LINK_TOKENS_PER_S + 0.01)
    assert seen.at("a ended") == pytest.approx(1024 / LINK_TOKENS_PER_S + 0.5)


def test_pulls_share_the_link_and_bring_only_what_is_missing() -> None:
    seen = Seen()
    engine = seen.decode()
    seen.stream(engine, "a", a_request("ab", output_tokens=1))
    seen.stream(engine, "b", a_request("abcd", output_tokens=1))
    seen.timeline.run()
    assert seen.at("b ended") == pytest.approx(2048 / LINK_TOKENS_PER_S + 0.01, abs=1e-3)
    assert ("b began", seen.at("b began"), 1024) in seen.events


def test_the_closed_form_is_the_sum_of_the_steps() -> None:
    seen = Seen()
    seen.stream(seen.decode(H200), "a", a_request("ab", output_tokens=300))
    seen.timeline.run()
    steps_s = sum(H200.step_s(decode_seqs=1, decode_kv_tokens=1024 + i, chunks=[]) for i in range(300))
    assert seen.at("a ended") == pytest.approx(1024 / LINK_TOKENS_PER_S + steps_s, rel=1e-6)


def test_streams_that_come_and_go_have_all_their_steps() -> None:
    seen = Seen()
    engine = seen.decode(H200)
    for number in range(20):
        seen.stream(engine, str(number), a_request(f"x{number}", at_s=number / 20, output_tokens=200 + number))
    seen.timeline.run()
    assert sum(name.endswith("ended") for name, *_ in seen.events) == 20
    assert engine.cache.in_use_tokens == 0
    lone_s = 200 * H200.step_s(decode_seqs=1, decode_kv_tokens=1100, chunks=[])
    assert lone_s < seen.at("0 ended") < 2 * lone_s
    assert sum(engine.work_s.values()) > 20 * lone_s


def test_a_prompt_computed_on_decode_holds_its_streams_up() -> None:
    with_prompt, without = Seen(), Seen()
    for seen in (with_prompt, without):
        engine = seen.decode()
        seen.stream(engine, "stream", a_request("ab", output_tokens=50))
        if seen is with_prompt:
            seen.stream(engine, "local", a_request("pqrs", at_s=0.3, output_tokens=5), local=True)
        seen.timeline.run()
    held_up_s = with_prompt.at("stream ended") - without.at("stream ended")
    assert held_up_s == pytest.approx(2048e-4, abs=1e-3), "and one token came with the chunk"
    assert with_prompt.at("local began") == pytest.approx(0.3 + 2048e-4 + 0.01, abs=0.011)


def test_a_prompt_that_is_cached_there_hardly_does() -> None:
    seen = Seen()
    engine = seen.decode()
    seen.stream(engine, "first", a_request("abcd", output_tokens=5))
    seen.stream(engine, "next", a_request("abcde", at_s=5, output_tokens=5), local=True)
    seen.timeline.run()
    assert seen.at("next began") == pytest.approx(5 + 0.01 + 512e-4)
    assert ("next began", seen.at("next began"), 2048) in seen.events


def test_without_room_for_its_kv_a_stream_waits() -> None:
    seen = Seen()
    engine = seen.decode(capacity_tokens=1500)
    seen.stream(engine, "a", a_request("ab", output_tokens=50))
    seen.stream(engine, "b", a_request("xy", output_tokens=50))
    seen.timeline.run()
    assert seen.at("b began") >= seen.at("a ended") + 1024 / LINK_TOKENS_PER_S
