"""Did every hand-over end well? The engines' own books tell."""

from router.sim.engine import SimEngine


def assert_each_used_once(prefill: SimEngine, decode: SimEngine, *, pulled: int, released: int = 0) -> None:
    """As many hand-overs were pulled, once and in time, and given back as said; no other was issued."""
    issued, served = prefill.ledger.totals, decode.ledger.totals
    assert (issued.pulled, issued.released, issued.issued) == (pulled, released, pulled + released)
    assert (issued.pulled_again, issued.pulled_late, issued.expired, issued.lost) == (0, 0, 0, 0)
    assert (served.wrong_texts, served.failed_pulls) == (0, 0)
