from router.fleet.load import Load


def test_an_engine_begins_with_nothing_to_do() -> None:
    assert Load() == Load(requests=0, tokens=0)


def test_what_others_have_is_never_negative_and_nothing_without_a_request() -> None:
    load = Load()
    load.note_others(3, 700)
    assert (load.others_requests, load.others_kv_tokens) == (3, 700)
    load.note_others(2, -5)
    assert (load.others_requests, load.others_kv_tokens) == (2, 0)
    load.note_others(-1, 700)
    assert (load.others_requests, load.others_kv_tokens) == (0, 0)
