from router.call import Call
from router.routing.prefix.index import PrefixIndex
from router.routing.prefix.prefixes import Prefixes
from tests.support.builders import a_backend, a_call, a_completion

A, B = a_backend(port=1), a_backend(port=2)
TEXT = "x" * 2560


def some_prefixes() -> Prefixes:
    return Prefixes(PrefixIndex(100_000, 1000), salt_of=lambda call: (call.session or "").encode())


def test_what_was_sent_to_an_engine_is_there_for_the_next_prompt_that_begins_so() -> None:
    prefixes = some_prefixes()
    prefixes.expect(a_completion(prompt=TEXT), A)
    longer = a_completion(prompt=TEXT * 2)
    assert prefixes.held(longer) == {A: 640}
    assert (prefixes.cached_tokens(longer, A), prefixes.cached_tokens(longer, B)) == (640, 0)


def test_no_more_is_there_than_the_prompt_has() -> None:
    prefixes, call = some_prefixes(), a_completion(prompt=TEXT)
    prefixes.expect(call, A).confirm(tokens_after=prefixes.tokens_after_blocks(call, answer_tokens=500))
    assert prefixes.cached_tokens(a_completion(prompt=TEXT), A) == 640
    assert prefixes.cached_tokens(a_completion(prompt=TEXT + "y" * 2000), A) == 1140


def test_what_follows_the_blocks_is_the_rest_of_the_prompt_and_the_answer() -> None:
    prefixes = some_prefixes()
    assert prefixes.tokens_after_blocks(a_completion(prompt=TEXT + "y" * 40), 5) == 15


def test_blocks_are_computed_once_and_stay_when_the_body_goes() -> None:
    prefixes, call = some_prefixes(), a_call(prompt_tokens=640)
    computed = prefixes.blocks(call)
    call.drop_body()
    assert prefixes.blocks(call) is computed
    assert len(computed.hashes) == 9


def test_a_lookup_serves_until_something_changes() -> None:
    prefixes, call = some_prefixes(), a_completion(prompt=TEXT)
    held = prefixes.held(call)
    assert prefixes.held(call) is held
    prefixes.expect(call, B)
    assert prefixes.held(call) == {B: 640}
    assert prefixes.held(a_completion(prompt="another")) == {}


def test_tenants_are_kept_apart() -> None:
    def asked(by: str) -> Call:
        return a_completion(prompt=TEXT, user=by)

    prefixes = some_prefixes()
    prefixes.expect(asked("ann"), A)
    assert prefixes.held(asked("bob")) == {}
    assert prefixes.held(asked("ann")) == {A: 640}


def test_an_engine_that_began_anew_holds_nothing() -> None:
    prefixes, call = some_prefixes(), a_completion(prompt=TEXT)
    engine = a_backend(port=3, kv_events={"endpoint": "tcp://127.0.0.1:1"})
    prefixes.expect(call, engine)
    assert engine in prefixes.truth._engines
    prefixes.forget(engine)
    assert (prefixes.held(call), prefixes.truth._engines) == ({}, {})


def test_nobody_outside_can_know_how_the_hashes_of_a_prompt_begin() -> None:
    call, other = a_completion(prompt=TEXT), a_completion(prompt=TEXT)
    assert not set(some_prefixes().blocks(call).hashes) & set(some_prefixes().blocks(other).hashes)
