import pytest

from router.edge.api_key import ApiKey
from router.errors import WrongKey

KEY = ApiKey("s3cret")


@pytest.mark.parametrize("value", [b"Bearer s3cret", b"bearer s3cret", b"BEARER  s3cret "])
def test_who_has_the_key_is_let_in(value: bytes) -> None:
    KEY.admit([(b"host", b"gateway"), (b"authorization", value)])


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [b""],
        [b"s3cret"],
        [b"Basic s3cret"],
        [b"Bearer"],
        [b"Bearer s3cre"],
        [b"Bearer s3crets"],
        [b"Bearer \xe4"],
        [b"Bearer " + b"x" * (1 << 20)],
        [b"Bearer wrong", b"Bearer s3cret"],
        [b"Bearer s3cret", b"Bearer s3cret"],
    ],
)
def test_nobody_else_is(headers: list[bytes]) -> None:
    with pytest.raises(WrongKey) as caught:
        KEY.admit([(b"authorization", value) for value in headers])
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


def test_the_key_is_in_no_repr() -> None:
    assert "s3cret" not in repr(KEY)
