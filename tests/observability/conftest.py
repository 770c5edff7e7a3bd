"""One stack for all of it, on which everything went wrong that the panels are to show."""

from collections.abc import Iterator

import pytest

from router.sim.faults import Fault
from tests.observability.stack import Stack, running

SEEN_WITHIN_S = 60


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Under load, after faults of every sort, and quiet again."""
    with running(tmp_path_factory.mktemp("stack")) as made:
        for engine in made.of_role("prefill"):
            engine.add(Fault("status", status=500, share=0.3, count=30))
        for engine in made.of_role("decode"):
            engine.add(Fault("first_event_error", share=0.05, count=10), Fault("reset", share=0.05, count=10))
        yield made
