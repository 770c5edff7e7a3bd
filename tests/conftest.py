"""What holds for every test: made-up examples are the same each time, and gateways and engines are left in order."""

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.books import BOOKS

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _log_is_put_back() -> Iterator[None]:
    """Commands send the log to standard error, which is another one in each test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _books_are_in_order() -> Iterator[None]:
    """Whatever the test made through the support code: nothing leaks, and no rule of its own was broken."""
    yield
    BOOKS.assert_in_order()
