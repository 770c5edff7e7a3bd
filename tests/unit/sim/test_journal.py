from router.sim import tokens
from router.sim.journal import Journal, block_hash


def test_events_are_taken_once_in_their_order() -> None:
    journal = Journal(block_size_tokens=2)
    journal.stored([b"12345678", b"abcdefgh"], b"parentee", b"one two fourfive", "r-1")
    journal.removed(b"12345678")
    journal.cleared()
    stored, removed, cleared = journal.take()
    assert stored["block_hashes"] == [block_hash(b"12345678"), block_hash(b"abcdefgh")]
    assert stored["parent_block_hash"] == block_hash(b"parentee")
    assert (stored["block_size"], stored["session_id"]) == (2, "r-1")
    assert (removed["type"], removed["block_hashes"]) == ("BlockRemoved", [block_hash(b"12345678")])
    assert cleared == {"type": "AllBlocksCleared"}
    assert journal.take() == []


def test_the_first_block_has_no_parent_and_tokens_are_numbers() -> None:
    journal = Journal(block_size_tokens=2)
    journal.stored([b"12345678"], None, b"one two ", None)
    (stored,) = journal.take()
    assert stored["parent_block_hash"] is None
    assert tokens.from_ids(stored["token_ids"]) == b"one two "


def test_a_hash_is_the_low_half_of_a_digest() -> None:
    assert block_hash(bytes(8) + b"\xff" * 8) == 2**64 - 1
