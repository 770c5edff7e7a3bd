from router.edge.request_ids import RequestIds


def test_ids_differ_within_a_gateway_and_between_gateways() -> None:
    one, other = RequestIds(), RequestIds()
    ids = [source.new() for source in (one, other) for _ in range(100)]
    assert len(set(ids)) == 200


def test_an_id_tells_its_gateway() -> None:
    ids = RequestIds()
    assert len({ids.new().split("-")[0] for _ in range(3)}) == 1
