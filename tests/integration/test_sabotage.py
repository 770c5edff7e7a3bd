"""Would the tests notice? Each of these breaks the product on purpose, and one of the suite's own checks must fail.

The checks: what is held at the end of `site` (gateway and engines), the engines' books, the text.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from router.admission.permits import Permit
from router.call import Call
from router.engines.handoff import Handoff
from router.engines.vllm import VllmNixl
from router.exchange.pool import Checkout
from router.exchange.release import Releases
from router.fleet.lease import Lease
from router.routing import choose
from router.routing.disaggregation import Reason
from router.sim.faults import Fault
from router.sim.ledger import Ledger
from tests.support.books import BOOKS
from tests.support.fleet import Site, engine, site, until
from tests.support.ledgers import assert_each_used_once
from tests.support.sim_pair import right_text

PROMPTS = ["seven bottles of beer on the wall. " * 8, "eight bottles of gin in a box.  . " * 8]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that will fail need not wait two seconds for it."""
    assert until.__kwdefaults__ is not None
    monkeypatch.setitem(until.__kwdefaults__, "within_s", 0.5)


@pytest.fixture(autouse=True)
def _spoilt_books() -> Iterator[None]:
    """What these tests leave out of order is meant to be."""
    yield
    BOOKS.forget()


def nothing(*_: object, **__: object) -> None:
    """What a sabotaged function does."""


async def ask(here: Site, prompt: str) -> bool:
    """One completion; whether its text is right."""
    body = {"model": "sim-8b", "prompt": prompt, "max_tokens": 8}
    answer = await here.ask("/v1/completions", body)
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["text"]) == right_text(body, "completions")


def noticed(what: str) -> pytest.RaisesGroup[AssertionError]:
    """The block must end with a failed check that names `what`."""
    return pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match=what), flatten_subgroups=True)


REFUSAL = Fault("status", status=400, count=1, path="/v1/completions")


async def refused(here: Site) -> None:
    """One completion that decode turns down before it looks at the hand-over."""
    answer = await here.ask("/v1/completions", {"model": "sim-8b", "prompt": PROMPTS[0], "max_tokens": 8})
    assert answer.status_code == 400


# The checks pass when nothing is broken


async def test_without_sabotage_every_check_passes() -> None:
    prefill, decode = engine("prefill"), engine("decode")
    async with site(prefill, decode) as here:
        assert [await ask(here, prompt) for prompt in PROMPTS] == [True, True]
    assert_each_used_once(prefill, decode, pulled=2)


async def test_without_sabotage_a_refused_handoff_is_given_back() -> None:
    prefill, decode = engine("prefill"), engine("decode")
    async with site(prefill, decode) as here:
        decode.faults.add(REFUSAL)
        await refused(here)
    assert_each_used_once(prefill, decode, pulled=0, released=1)


# What is held at the end


@pytest.mark.parametrize(
    ("owner", "method", "held"),
    [(Lease, "settle", "requests"), (Permit, "release", "permits"), (Checkout, "close", "connections")],
)
async def test_what_is_never_given_back_is_noticed(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str, held: str
) -> None:
    monkeypatch.setattr(owner, method, nothing)
    with noticed(f"'{held}': "):
        async with site(engine("prefill"), engine("decode")) as here:
            assert await ask(here, PROMPTS[0])


async def test_a_handoff_that_is_not_released_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Releases, "release", nothing)
    decode = engine("decode")
    with noticed("'handoffs_open': 1"):
        async with site(engine("prefill"), decode) as here:
            decode.faults.add(REFUSAL)
            await refused(here)


async def test_a_decode_body_without_its_handoff_is_noticed_although_the_text_is_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without(_: VllmNixl, call: Call, handoff: Handoff, now: float) -> bytes:
        handoff.spend(call, now)
        return call.body

    monkeypatch.setattr(VllmNixl, "decode_body", without)
    with noticed("'handoffs_open': 1"):
        async with site(engine("prefill"), engine("decode")) as here:
            assert await ask(here, PROMPTS[0])


# The engines' books, and the text


def always_the_first() -> Callable[[Handoff, Call, float], Mapping[str, Any]]:
    """A `Handoff.spend` that gives the parameters of the first hand-over for every later one."""
    sent: list[Mapping[str, Any]] = []

    def spend(handoff: Handoff, call: Call, now: float) -> Mapping[str, Any]:
        sent.append(SPEND(handoff, call, now))
        return sent[0]

    return spend


SPEND = Handoff.spend


async def test_a_handoff_that_is_sent_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handoff, "spend", always_the_first())
    prefill, decode = engine("prefill"), engine("decode")
    async with site(prefill, decode, quiet=False) as here:
        assert await ask(here, PROMPTS[0])
        await ask(here, PROMPTS[1])
    assert prefill.ledger.totals.pulled_again == 1
    with pytest.raises(AssertionError):
        assert_each_used_once(prefill, decode, pulled=2)


async def test_another_requests_kv_shows_in_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handoff, "spend", always_the_first())
    prefill, decode = engine("prefill"), engine("decode")
    async with site(prefill, decode, quiet=False) as here:
        assert [await ask(here, prompt) for prompt in PROMPTS] == [True, False]
    assert decode.ledger.totals.wrong_texts == 1


async def test_a_gateway_that_never_hands_over_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "decide", lambda *_: (False, Reason.FORCED_LOCAL))
    prefill, decode = engine("prefill"), engine("decode")
    async with site(prefill, decode) as here:
        assert await ask(here, PROMPTS[0])
    with pytest.raises(AssertionError):
        assert_each_used_once(prefill, decode, pulled=1)


@pytest.mark.parametrize(
    ("owner", "method", "what"),
    [
        (Lease, "settle", "has stopped holds {'requests': 2"),
        (Permit, "release", "permits: .* 1 permits for 0 requests"),
        (Ledger, "ended", "of 1 hand-overs 0 came back"),
    ],
)
async def test_what_is_out_of_order_at_the_end_of_a_test_is_noticed(
    owner: type, method: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, method, nothing)
    async with site(engine("prefill"), engine("decode"), quiet=False) as here:
        assert await ask(here, PROMPTS[0])
    with pytest.raises(AssertionError, match=what):
        BOOKS.assert_in_order()


async def test_a_rule_that_did_not_hold_for_a_moment_is_noticed() -> None:
    async with site(engine("prefill"), engine("decode"), quiet=False) as here:
        load = here.app.fleet.backends[0].load
        load.requests += 1
        here.app.audit.look()
        load.requests -= 1
        with pytest.raises(AssertionError, match="permits did not hold 1 times"):
            BOOKS.assert_in_order()
