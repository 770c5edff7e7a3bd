"""Prints what each fault cost the clients."""

import pytest

from tests.support.fault_rows import ROWS

FIGURES = ("tried", "complete", "errors", "lost", "leaked")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line per fault: how many requests, and what became of them."""
    if ROWS:
        terminalreporter.section("faults")
        terminalreporter.line(f"{'id':<5} {'fault':<48} " + " ".join(f"{name:>8}" for name in FIGURES))
        for row in sorted(ROWS, key=lambda row: row.id):
            figures = " ".join(f"{getattr(row, name):>8}" for name in FIGURES)
            terminalreporter.line(f"{row.id:<5} {row.fault:<48} {figures}")
