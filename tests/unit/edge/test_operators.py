import pytest

from router.edge.operators import Operators
from router.errors import NotAllowed

LOCAL = {"host": "127.0.0.1:8001"}
TOKEN = "s3cret"


def status(operators: Operators, **headers: str) -> int:
    """What a request with these headers is told."""
    try:
        operators.admit(headers)
    except NotAllowed as fault:
        return fault.status
    return 200


@pytest.mark.parametrize("host", ["127.0.0.1:8001", "localhost:8001", "localhost", "[::1]:8001"])
def test_on_loopback_whoever_is_there_may(host: str) -> None:
    assert status(Operators("127.0.0.1"), host=host) == 200


@pytest.mark.parametrize("host", ["gateway.internal:8001", "evil.example", "127.0.0.1.evil.example", "[", "[::1", ""])
def test_but_not_under_another_name(host: str) -> None:
    assert status(Operators("127.0.0.1"), host=host) == 403


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://127.0.0.1:8001", 200),
        ("http://evil.example", 403),
        ("http://127.0.0.1:9000", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
@pytest.mark.parametrize("token", [None, TOKEN])
def test_no_page_of_another_site_may(token: str | None, origin: str, expected: int) -> None:
    given = {"authorization": f"Bearer {TOKEN}"} if token else {}
    assert status(Operators("127.0.0.1", token), origin=origin, **LOCAL, **given) == expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "gateway"])
def test_elsewhere_it_takes_a_token(host: str) -> None:
    assert status(Operators(host), **LOCAL) == 403
    with_token = Operators(host, TOKEN)
    assert status(with_token, host="gateway:8001") == 401
    assert status(with_token, host="gateway:8001", authorization="Bearer wrong") == 401
    assert status(with_token, host="gateway:8001", authorization="Bearer \xe4") == 401
    assert status(with_token, host="gateway:8001", authorization=f"Bearer {TOKEN}") == 200


def test_with_a_token_loopback_needs_it_too() -> None:
    assert status(Operators("127.0.0.1", TOKEN), **LOCAL) == 401


def test_the_token_is_in_no_repr() -> None:
    assert TOKEN not in repr(Operators("::", TOKEN))


@pytest.mark.parametrize(("token", "listens_on"), [(TOKEN, "127.0.0.1"), (None, "0.0.0.0"), (TOKEN, "0.0.0.0")])
def test_any_name_may_be_read_under_where_names_tell_nothing(token: str | None, listens_on: str) -> None:
    Operators(listens_on, token).admit_name({"host": "gateway.internal:8001"})
    with pytest.raises(NotAllowed):
        Operators("127.0.0.1").admit_name({"host": "gateway.internal:8001"})


@pytest.mark.parametrize(
    ("host", "token", "terms"),
    [("0.0.0.0", "t", "token"), ("127.0.0.1", "t", "token"), ("::1", None, "loopback"), ("0.0.0.0", None, "closed")],
)
def test_what_changes_need_can_be_told(host: str, token: str | None, terms: str) -> None:
    assert Operators(host, token).terms == terms
