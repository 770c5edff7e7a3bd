import pytest
from pydantic import ValidationError

from router.settings.edge import Edge, Listen, Ops


@pytest.mark.parametrize(
    ("listen", "own"),
    [
        (Listen(), False),
        (Listen(host="127.0.0.1"), True),
        (Listen(host="127.0.0.1", fd=3), False),
    ],
)
def test_who_can_connect_to_an_inherited_socket_is_not_known(listen: Listen, own: bool) -> None:
    assert listen.on_loopback is own


def test_operations_are_for_this_machine_unless_they_are_given_an_address() -> None:
    assert Ops().host == "127.0.0.1"


def test_what_one_client_may_send_fits_what_all_may_send() -> None:
    edge = Edge()
    assert edge.max_request_line_bytes + edge.max_header_line_bytes <= edge.max_head_bytes
    assert edge.max_body_bytes <= edge.max_buffered_body_bytes
    assert edge.max_body_bytes / edge.body_timeout_s > edge.min_body_bytes_per_s


def test_depths_that_parsing_would_not_survive_are_refused() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 200"):
        Edge(max_json_depth=201)
