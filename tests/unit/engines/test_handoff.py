from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.engines.handoff import MAX_HANDOFF_BYTES, MAX_PEERS, HandoffState, KvPeers, validated
from router.errors import BadHandoff
from tests.support.builders import a_call, a_handoff, kv_params
from tests.support.faults import blamed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
CHECKED = ("remote_engine_id", "remote_request_id", "remote_host", "remote_port", "remote_block_ids")


def deep(levels: int) -> object:
    """Lists in each other, the innermost empty."""
    return orjson.loads(b"[" * levels + b"]" * levels)


def check(parameters: object, peers: KvPeers | None = None, hosts: tuple[str, ...] = ()) -> None:
    validated(parameters, peers={} if peers is None else peers, allowed_hosts=hosts)


# Once, for one call, while young


def test_a_handoff_gives_its_parameters_unchanged_to_its_call() -> None:
    call = a_call()
    handoff = a_handoff(call, kv_params())
    assert handoff.spend(call, now=1.0) == kv_params()
    assert handoff.state is HandoffState.SENT


def test_a_handoff_is_spent_once() -> None:
    call = a_call()
    handoff = a_handoff(call)
    handoff.spend(call, now=1.0)
    with blamed(BadHandoff, "used twice: it was sent"):
        handoff.spend(call, now=1.0)


def test_a_handoff_is_of_no_use_to_another_call_even_an_equal_one() -> None:
    handoff = a_handoff(a_call())
    with blamed(BadHandoff, "another request"):
        handoff.spend(a_call(), now=1.0)
    assert handoff.state is HandoffState.FRESH


@pytest.mark.parametrize(("now", "allowed"), [(105.0, True), (110.0, True), (110.001, False), (140.0, False)])
def test_a_handoff_ages_from_when_its_engine_was_last_alive(now: float, allowed: bool) -> None:
    call = a_call()
    handoff = a_handoff(call, unfinished_at=100.0)  # good for 10 s
    if allowed:
        handoff.spend(call, now)
    else:
        with blamed(BadHandoff, "s old, allowed are 10.0 s"):
            handoff.spend(call, now)


def test_a_handoff_that_got_too_old_can_still_be_given_back() -> None:
    call = a_call()
    handoff = a_handoff(call)
    with pytest.raises(BadHandoff):
        handoff.spend(call, now=99.0)
    assert handoff.surrender() == kv_params()


def test_a_handoff_given_back_cannot_be_spent() -> None:
    call = a_call()
    handoff = a_handoff(call)
    handoff.surrender()
    with blamed(BadHandoff, "it was surrendered"):
        handoff.spend(call, now=1.0)


def test_a_handoff_is_given_back_once() -> None:
    handoff = a_handoff()
    handoff.surrender()
    with blamed(BadHandoff, "given back twice"):
        handoff.surrender()


def test_a_handoff_that_was_sent_and_refused_can_be_given_back() -> None:
    call = a_call()
    handoff = a_handoff(call)
    handoff.spend(call, now=1.0)
    handoff.surrender()
    assert handoff.state is HandoffState.SURRENDERED


@given(st.lists(st.sampled_from(["spend", "late", "foreign", "surrender"]), max_size=8))
def test_in_whatever_order_it_is_used_a_handoff_is_sent_at_most_once(uses: list[str]) -> None:
    call = a_call()
    handoff = a_handoff(call)
    done: list[str] = []
    for use in uses:
        try:
            if use == "surrender":
                handoff.surrender()
            else:
                handoff.spend(a_call() if use == "foreign" else call, now=99.0 if use == "late" else 1.0)
            done.append(use)
        except BadHandoff:
            pass
    assert done in ([], ["spend"], ["surrender"], ["spend", "surrender"])


def test_what_is_handed_over_is_never_shown() -> None:
    shown = repr(a_handoff(parameters=kv_params(remote_host="kv-7.secret")))
    assert "secret" not in shown
    assert "fresh" in shown


# What a decode engine survives


@given(JSON)
def test_any_json_is_valid_or_a_bad_handoff(parameters: object) -> None:
    with pytest.raises(BadHandoff):
        check(parameters)


@given(st.sampled_from(CHECKED), JSON)
def test_any_one_field_spoiled_is_valid_or_a_bad_handoff(name: str, value: object) -> None:
    parameters = kv_params(**{name: value})
    try:
        check(parameters)
    except BadHandoff:
        return
    wanted = {"remote_port": int, "remote_block_ids": list}.get(name, str)
    assert isinstance(value, wanted)
    assert value


@given(st.dictionaries(st.text().filter(lambda name: name not in CHECKED), JSON, max_size=6))
def test_fields_that_no_decode_engine_dies_of_are_opaque(others: dict[str, Any]) -> None:
    parameters = {name: kv_params()[name] for name in CHECKED} | others
    assert orjson.dumps(validated(parameters, peers={}, allowed_hosts=())) == orjson.dumps(parameters)


@pytest.mark.parametrize("name", CHECKED)
def test_a_missing_field_is_named(name: str) -> None:
    parameters = kv_params()
    del parameters[name]
    with blamed(BadHandoff, name):
        check(parameters)


@pytest.mark.parametrize("ids", [[1], [[1, 2]], [[1], [2, 3]], [0]])
def test_block_ids_may_be_flat_or_a_list_per_cache_group(ids: object) -> None:
    check(kv_params(remote_block_ids=ids))


@pytest.mark.parametrize(
    "ids",
    [
        None,
        [],
        [[]],
        [[1], []],
        [[1], 2],
        [[1], 0],
        [1, [2]],
        [[1], [2, [3]]],
        [[1], [2], 3],
        [[], [1]],
        orjson.loads(b"[" * 300 + b"]" * 300),
        [-1],
        [True],
        [1.0],
        ["1"],
        {"0": 1},
        [[[1]]],
    ],
)
def test_block_ids_that_kill_a_decode_engine_are_refused(ids: object) -> None:
    with blamed(BadHandoff, "remote_block_ids"):
        check(kv_params(remote_block_ids=ids))


@pytest.mark.parametrize("port", [None, 0, -1, 65536, "5600", 5600.0, True])
def test_a_port_is_one(port: object) -> None:
    with blamed(BadHandoff, "remote_port"):
        check(kv_params(remote_port=port))


def test_parameters_are_bounded_in_size() -> None:
    fitting = "a" * (MAX_HANDOFF_BYTES - 2 * len(orjson.dumps(kv_params())))
    check(kv_params(more=fitting))
    with blamed(BadHandoff, "larger than"):
        check(kv_params(more=fitting * 2))


@pytest.mark.parametrize("depth", [253, 254, 1000])
def test_parameters_that_could_not_be_sent_on_are_refused(depth: int) -> None:
    with blamed(BadHandoff, "nested too deeply"):
        check(kv_params(more=deep(depth)))


# Where the KV is pulled from


def test_the_side_channel_must_be_one_that_is_configured() -> None:
    check(kv_params(), hosts=("127.0.0.1", "10.1.0.7"))
    with blamed(BadHandoff, "kv_hosts"):
        check(kv_params(remote_host="169.254.169.254"), hosts=("127.0.0.1", "10.1.0.7"))


@pytest.mark.parametrize("moved", [{"remote_host": "10.9.9.9"}, {"remote_port": 5601}])
def test_the_side_channel_stays_where_it_was_first_seen(moved: dict[str, Any]) -> None:
    peers: KvPeers = {}
    check(kv_params(), peers)
    check(kv_params(), peers)
    with blamed(BadHandoff, "moved"):
        check(kv_params(**moved), peers)
    assert peers == {"engine-1": ("127.0.0.1", 5600)}


def test_an_engine_that_restarted_may_have_moved() -> None:
    peers: KvPeers = {}
    check(kv_params(), peers)
    check(kv_params(remote_engine_id="engine-2", remote_port=5601), peers)
    assert peers == {"engine-1": ("127.0.0.1", 5600), "engine-2": ("127.0.0.1", 5601)}


def test_a_bad_handoff_pins_nothing() -> None:
    peers: KvPeers = {}
    for spoilt in (kv_params(remote_block_ids=[]), kv_params(remote_host="10.9.9.9")):
        with pytest.raises(BadHandoff):
            check(spoilt, peers, hosts=("127.0.0.1",))
    assert peers == {}


def test_peers_are_bounded_and_the_oldest_goes_first() -> None:
    peers: KvPeers = {}
    for number in range(MAX_PEERS + 3):
        check(kv_params(remote_engine_id=f"engine-{number}"), peers)
    assert list(peers) == [f"engine-{number}" for number in range(3, MAX_PEERS + 3)]


def test_parameters_may_be_just_as_large_as_the_limit() -> None:
    frame = len(orjson.dumps({"kv_transfer_params": kv_params(more="")}))
    check(kv_params(more="a" * (MAX_HANDOFF_BYTES - frame)))
    with blamed(BadHandoff, "larger than"):
        check(kv_params(more="a" * (MAX_HANDOFF_BYTES - frame + 1)))


@pytest.mark.parametrize("port", [1, 65535])
def test_the_first_and_the_last_port_are_ports(port: int) -> None:
    check(kv_params(remote_port=port))


def test_the_age_of_a_hand_over_that_is_too_old_is_told() -> None:
    call = a_call()
    with blamed(BadHandoff, "hand-over is 11.5 s old"):
        a_handoff(call, unfinished_at=100).spend(call, now=111.5)
