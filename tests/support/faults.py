"""Was an engine blamed, and for what? The cause is in the fault's detail, which only the log sees."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from router.errors import EngineFault


@contextmanager
def blamed(kind: type[EngineFault], detail: str) -> Iterator[None]:
    """The block raises `kind` with `detail` in its detail."""
    with pytest.raises(kind) as caught:
        yield
    assert detail in (caught.value.detail or "")
