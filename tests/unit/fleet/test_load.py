from router.fleet.load import Load


def test_an_engine_begins_with_nothing_to_do() -> None:
    assert Load() == Load(requests=0, tokens=0)
