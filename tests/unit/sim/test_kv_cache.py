"""Blocks of sequences."""

import pytest

from router.sim.blocks import OutOfBlocksError
from router.sim.config import SimConfig
from router.sim.kv_cache import KvCache
from router.sim.sequence import Sequence
from tests.support.sim_pair import Collector


def sequence(prompt: bytes, salt: str = "") -> Sequence:
    """A sequence of four tokens per block."""
    return Sequence("id", prompt, 10, "length", Collector(), cache_salt=salt)


def cache(blocks: int = 8, model: str = "sim-8b") -> KvCache:
    """A small pool."""
    return KvCache(SimConfig(kv_blocks=blocks, block_size_tokens=4, model=model, kv_events="ipc://nowhere"))


def computed(kv: KvCache, prompt: bytes, salt: str = "") -> Sequence:
    """A sequence whose prompt was computed."""
    made = sequence(prompt, salt)
    kv.begin(made)
    kv.compute(made)
    return made


def test_a_computed_prompt_is_seen_as_it_is() -> None:
    kv = cache()
    made = computed(kv, b"a" * 40)
    assert len(made.blocks) == 3
    assert kv.seen(made) == kv.expected(made)


def test_the_last_token_is_never_cached() -> None:
    kv = cache()
    kv.release(computed(kv, b"a" * 32))
    again = sequence(b"a" * 32)
    kv.begin(again)
    assert (again.cached_tokens, again.computed_tokens) == (4, 4)
    longer = sequence(b"a" * 36)
    kv.begin(longer)
    assert longer.cached_tokens == 8


def test_a_cached_prefix_is_built_on() -> None:
    kv = cache()
    first = computed(kv, b"a" * 32)
    second = computed(kv, b"a" * 32 + b"b" * 20)
    assert second.blocks[:2] == first.blocks
    assert kv.seen(second) == kv.expected(second)
    assert kv.pool.in_use == 4


def test_another_salt_shares_nothing_but_reads_the_same() -> None:
    kv = cache()
    plain, salted = computed(kv, b"a" * 32), computed(kv, b"a" * 32, salt="pepper")
    assert not set(plain.blocks) & set(salted.blocks)
    assert kv.seen(salted) == kv.seen(plain)


def test_generated_tokens_fill_blocks_and_are_found_by_a_continuation() -> None:
    kv = cache()
    made = computed(kv, b"a" * 12)
    for token in (b" one", b" two"):
        made.last_token = token
        kv.extend(made)
    assert len(made.blocks) == 2
    kv.release(made)
    assert kv.pool.in_use == 0
    follow = computed(kv, b"a" * 12 + b" one two and ten")
    assert follow.cached_tokens == 4
    assert kv.seen(follow) == kv.expected(follow)


def test_the_wrong_kv_is_seen_and_stays_in_the_cache() -> None:
    right, wrong = cache(), cache()
    theirs = computed(wrong, b"b" * 32)
    mine = sequence(b"a" * 32)
    right.begin(mine)
    right.load(mine, wrong.pool.read(theirs.blocks))
    assert right.seen(mine) != right.expected(mine)
    right.release(mine)
    later = computed(right, b"a" * 32)
    assert later.cached_tokens == 4
    assert right.seen(later) != right.expected(later)


def test_only_what_is_not_cached_is_to_be_loaded() -> None:
    kv = cache()
    kv.release(computed(kv, b"a" * 32))
    again = sequence(b"a" * 32)
    kv.begin(again)
    assert kv.uncached_blocks(again) == again.blocks[1:]


def test_a_full_pool_gives_nothing() -> None:
    kv = cache(blocks=2)
    held = computed(kv, b"a" * 32)
    with pytest.raises(OutOfBlocksError):
        kv.begin(sequence(b"b" * 4))
    held.last_token = b" one"
    with pytest.raises(OutOfBlocksError):
        kv.extend(held)
    assert (held.last_token, held.length_tokens) == (b" one", 8)


def test_another_models_kv_is_not_the_same() -> None:
    one, other = cache(), cache(model="other")
    assert one.expected(sequence(b"a" * 8)) != other.expected(sequence(b"a" * 8))


def events(kv: KvCache) -> list[tuple[str, int]]:
    """What has happened: the kind, and how many blocks."""
    assert kv.journal is not None
    return [(event["type"], len(event.get("block_hashes", ()))) for event in kv.journal.take()]


def test_what_is_stored_and_evicted_is_told() -> None:
    kv = cache(blocks=4)
    kv.release(computed(kv, b"a" * 32))
    assert events(kv) == [("BlockStored", 2)]
    follow = computed(kv, b"a" * 32 + b"b" * 16)
    assert events(kv) == [("BlockStored", 1)]
    kv.release(follow)
    kv.release(computed(kv, b"c" * 48))
    assert events(kv) == [("BlockRemoved", 1), ("BlockRemoved", 1), ("BlockStored", 3)]
    assert kv.reset() is True
    assert events(kv) == [("AllBlocksCleared", 0)]


def test_a_chain_is_told_by_its_parents() -> None:
    kv = cache()
    made = computed(kv, b"a" * 28)
    made.last_token = b" one"
    kv.extend(made)
    assert kv.journal is not None
    first, second = kv.journal.take()
    assert (first["parent_block_hash"], second["parent_block_hash"]) == (None, first["block_hashes"][-1])
    assert second["token_ids"][-1] == int.from_bytes(b" one")


def test_a_cache_in_use_is_not_reset() -> None:
    kv = cache()
    computed(kv, b"a" * 32)
    assert kv.reset() is False
    assert KvCache(SimConfig()).reset() is True
