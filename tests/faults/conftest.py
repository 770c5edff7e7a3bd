"""Prints what each fault cost the clients. `--full` tries as much as the figures of docs/failures.md are from."""

import pytest

from tests.support.fault_rows import ROWS, Sized

FIGURES = ("tried", "complete", "errors", "lost", "wrong", "leaked")
FULL_TIMEOUT_S = 1800


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--full`."""
    parser.addoption("--full", action="store_true", help="tests/faults: many more requests, aborts and minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is larger may take longer."""
    if config.getoption("--full"):
        for item in items:
            item.add_marker(pytest.mark.timeout(FULL_TIMEOUT_S), append=False)


@pytest.fixture
def sized(request: pytest.FixtureRequest) -> Sized:
    """Chooses between the number of an ordinary run and that of a full one."""
    full = request.config.getoption("--full", default=False)
    return lambda ordinary, large: large if full else ordinary


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line per fault: how many requests, and what became of them."""
    if ROWS:
        terminalreporter.section("faults")
        terminalreporter.line(f"{'id':<5} {'fault':<52} " + " ".join(f"{name:>8}" for name in FIGURES))
        for row in sorted(ROWS, key=lambda row: row.id):
            figures = " ".join(f"{getattr(row, name):>8}" for name in FIGURES)
            terminalreporter.line(f"{row.id:<5} {row.fault:<52} {figures}")
