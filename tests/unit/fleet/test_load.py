from router.fleet.load import NO_OTHERS, Load, Others


def test_an_engine_begins_with_nothing_to_do() -> None:
    assert Load() == Load(requests=0, tokens=0)


def test_others_have_nothing_as_long_as_nothing_is_known() -> None:
    assert Others() == NO_OTHERS == Others(requests=0, kv_tokens=0)
