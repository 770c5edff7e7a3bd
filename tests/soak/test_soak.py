"""The soak works: some seconds of it."""

import pytest

from tests.soak.soak import soak

pytestmark = pytest.mark.timeout(180)


async def test_a_little_soak() -> None:
    assert await soak(for_s=20, every_s=3) == []
