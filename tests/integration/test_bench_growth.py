"""What the look at growth plays, and what it finds in a replay that is short."""

from pathlib import Path

from bench.growth import again_and_again, fine, grown, main, table
from router.bench.replay.replay import Shape
from router.bench.replay.trace import Request

TRACE = [Request(float(number), 1500, 10, (1, number + 10, number + 20)) for number in range(4)]
SMALL = Shape(prefill=1, decode=1, prefill_cache_tokens=6400, decode_cache_tokens=6400)


def test_every_hour_has_prompts_of_its_own_that_begin_alike_as_before() -> None:
    first, second = (list(again_and_again(TRACE, 2))[start : start + 4] for start in (0, 4))
    assert first == TRACE
    assert [request.at_s for request in second] == [4.0, 5.0, 6.0, 7.0]
    assert len({request.blocks[0] for request in second}) == 1
    assert {block for request in first for block in request.blocks}.isdisjoint(
        block for request in second for block in request.blocks
    )


def test_blocks_are_as_small_as_the_gateways() -> None:
    one, other = fine(TRACE[0]).blocks, fine(TRACE[1]).blocks
    assert one is not None
    assert other is not None
    assert (len(one.hashes), one.tokens_each) == (1500 // 64, 64)
    assert one.hashes[:8] == other.hashes[:8]
    assert set(one.hashes[8:]).isdisjoint(other.hashes[8:])


def test_what_is_kept_is_bounded_by_the_caches() -> None:
    samples = list(grown(list(again_and_again(TRACE, 50)), SMALL))
    assert samples[-1].requests == 200
    assert 190 <= samples[-1].blocks <= 2 * 6400 // 64
    assert 0 < samples[-1].size_bytes < 1_000_000


def test_it_is_told_as_a_table_and_drawn(tmp_path: Path) -> None:
    lines = list(table(list(grown(TRACE, SMALL))))
    assert lines[0].count("|") == lines[-1].count("|")
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 600, "output_length": 2, "hash_ids": [1, 2]}\n')
    assert main(["--trace", str(trace), "--hours", "1", "--svg", str(tmp_path / "memory.svg")]) == 0
    assert (tmp_path / "memory.svg").read_text().startswith("<svg")
