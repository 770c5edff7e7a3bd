from hypothesis import given
from hypothesis import strategies as st

from router.bench.replay.kv_cache import KvCache
from tests.support.traces import a_request

BLOCK = 512


def use(cache: KvCache, blocks: str) -> int:
    cached = cache.acquire(a_request(blocks))
    cache.release(a_request(blocks))
    return cached


def test_a_prompt_finds_the_longest_run_of_its_first_blocks() -> None:
    cache = KvCache(10 * BLOCK)
    assert use(cache, "abc") == 0
    assert use(cache, "abx") == 2 * BLOCK
    assert use(cache, "bc") == 0


def test_the_last_token_is_computed_in_any_case() -> None:
    cache = KvCache(10 * BLOCK)
    use(cache, "abc")
    assert use(cache, "abc") == 3 * BLOCK - 1


def test_what_was_used_least_recently_goes_first_and_ends_before_beginnings() -> None:
    cache = KvCache(4 * BLOCK)
    use(cache, "ab")
    use(cache, "pq")
    use(cache, "ab")
    use(cache, "x")
    assert cache.cached_tokens(a_request("abc")) == 2 * BLOCK
    assert cache.cached_tokens(a_request("pqr")) == BLOCK
    assert cache.used_tokens == 4 * BLOCK


def test_what_is_in_use_stays() -> None:
    cache = KvCache(3 * BLOCK)
    long = a_request("abc")
    cache.acquire(long)
    use(cache, "xyz")
    assert (cache.cached_tokens(a_request("abcd")), cache.used_tokens) == (3 * BLOCK, 3 * BLOCK)
    assert cache.in_use_tokens == 3 * BLOCK
    cache.release(long)
    assert cache.in_use_tokens == 0


@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=6), st.booleans()), max_size=30), st.integers(1, 12))
def test_tokens_add_up(steps: list[tuple[str, bool]], capacity: int) -> None:
    cache, open_requests = KvCache(capacity * BLOCK), []
    for blocks, stays in steps:
        request = a_request(blocks)
        cache.acquire(request)
        if stays:
            open_requests.append(request)
        else:
            cache.release(request)
        in_use = {block for one in open_requests for block in one.blocks}
        assert cache.in_use_tokens == len(in_use) * BLOCK
        assert cache.used_tokens <= max(capacity, len(in_use)) * BLOCK
    for request in open_requests:
        cache.release(request)
    assert cache.used_tokens <= capacity * BLOCK
    assert cache.in_use_tokens == 0
