"""The ledger's own bookkeeping."""

import pytest

from router.sim import ledger
from router.sim.ledger import Gauges, Ledger


def test_the_story_of_a_handoff() -> None:
    book = Ledger()
    book.issued("one", 100, 7)
    book.pulled("one")
    book.ended("one", "pulled")
    record = book.handoffs["one"]
    assert (record.tokens, record.blocks, record.pulled, record.late_pulls, record.ending) == (100, 7, 1, 0, "pulled")
    book.pulled("one")
    assert (record.pulled, record.late_pulls) == (2, 1)
    totals = book.totals
    assert (totals.issued, totals.pulled, totals.pulled_again, totals.pulled_late) == (1, 1, 1, 1)


@pytest.mark.parametrize("ending", ["released", "expired", "lost"])
def test_other_endings(ending: str) -> None:
    book = Ledger()
    book.issued("one", 100, 7)
    book.ended("one", ending)
    assert getattr(book.totals, ending) == 1
    assert book.totals.pulled == 0


def test_pulls_of_unknown_handoffs_are_nobodys() -> None:
    book = Ledger()
    book.pulled("never issued")
    assert book.totals == ledger.Totals()


def test_old_handoffs_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "REMEMBERED_HANDOFFS", 2)
    book = Ledger()
    for name in "abc":
        book.issued(name, 1, 1)
    assert list(book.handoffs) == ["b", "c"]
    assert book.totals.issued == 3


def test_idle_connections_and_cached_blocks_are_not_outstanding() -> None:
    book = Ledger(gauges=lambda: Gauges(connections_open=3, blocks_cached=5, blocks_free=9))
    assert book.outstanding() == {}
    book.assert_quiet()


@pytest.mark.parametrize(
    "name", ["requests_running", "requests_waiting", "exchanges_open", "handoffs_open", "blocks_in_use"]
)
def test_everything_held_is_outstanding(name: str) -> None:
    book = Ledger(gauges=lambda: Gauges(**{name: 2}))
    assert book.outstanding() == {name: 2}
    with pytest.raises(AssertionError, match=name):
        book.assert_quiet()


def test_the_snapshot_has_all_of_it() -> None:
    snapshot = Ledger(gauges=lambda: Gauges(blocks_in_use=1)).snapshot()
    assert snapshot["totals"]["issued"] == 0
    assert snapshot["gauges"]["blocks_in_use"] == 1
    assert snapshot["outstanding"] == {"blocks_in_use": 1}
