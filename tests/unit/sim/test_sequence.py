"""The counts of a sequence."""

from router.sim.sequence import Sequence
from tests.support.sim_pair import Collector


def test_tokens_grow_from_the_prompt_and_are_missing_until_computed() -> None:
    sequence = Sequence("id", b"abcdefgh", 5, "length", Collector())
    assert (sequence.prompt_tokens, sequence.length_tokens, sequence.missing_tokens) == (2, 2, 2)
    sequence.computed_tokens = 2
    sequence.tokens += b"more"
    assert (sequence.prompt_tokens, sequence.length_tokens, sequence.missing_tokens) == (2, 3, 1)
