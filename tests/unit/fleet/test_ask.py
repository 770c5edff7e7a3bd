import pytest

from router.fleet.ask import Reply


@pytest.mark.parametrize(("status", "ok"), [(200, True), (201, False), (302, False), (404, False), (503, False)])
def test_only_200_answers_a_question(status: int, ok: bool) -> None:
    assert Reply(status, b"").ok is ok
