"""Prints what each fault cost the clients."""

import pytest

from tests.support.fault_rows import FULL, ROWS

FIGURES = ("tried", "complete", "errors", "lost", "wrong", "leaked")
FULL_TIMEOUT_S = 1800


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is larger may take longer."""
    for item in items if FULL else ():
        item.add_marker(pytest.mark.timeout(FULL_TIMEOUT_S), append=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line per fault: how many requests, and what became of them."""
    if ROWS:
        terminalreporter.section("faults")
        terminalreporter.line(f"{'id':<5} {'fault':<52} " + " ".join(f"{name:>8}" for name in FIGURES))
        for row in sorted(ROWS, key=lambda row: row.id):
            figures = " ".join(f"{getattr(row, name):>8}" for name in FIGURES)
            terminalreporter.line(f"{row.id:<5} {row.fault:<52} {figures}")
