import pytest

from router.doctor.counters import PromptTokens
from router.doctor.examine import (
    NOBODY_ANSWERS,
    EngineFinding,
    Findings,
    PairFinding,
    Verdict,
    judge,
    rounds,
    with_partners,
)
from tests.support.builders import a_backend

P1, P2 = a_backend("prefill", 1), a_backend("prefill", 2)
D1, D2, D3 = (a_backend("decode", port) for port in (11, 12, 13))


def test_in_a_turn_an_engine_hands_over_once_and_all_pairs_have_their_turn() -> None:
    pairs = [(p, d) for p in (P1, P2) for d in (D1, D2, D3)]
    turns = list(rounds(pairs))
    assert sorted(pairs.index(pair) for turn in turns for pair in turn) == list(range(6))
    for turn in turns:
        engines = [engine for pair in turn for engine in pair]
        assert len(engines) == len(set(engines))
    assert len(turns) <= 4
    assert list(rounds([])) == []


@pytest.mark.parametrize(
    ("tokens", "verdict"),
    [
        (PromptTokens(pulled=9), Verdict.HANDED_OVER),
        (PromptTokens(cached=9), Verdict.HANDED_OVER),
        (PromptTokens(pulled=9, computed=500), Verdict.HANDED_OVER),  # it serves others meanwhile
        (PromptTokens(computed=9), Verdict.COMPUTED),
        (PromptTokens(cached=16, computed=9), Verdict.COMPUTED),
        (PromptTokens(pulled=900, computed=9, failed_transfers=1), Verdict.COMPUTED),
        (None, Verdict.UNPROVEN),
    ],
)
def test_decodes_counters_tell_what_an_answer_was_worth(tokens: PromptTokens | None, verdict: Verdict) -> None:
    assert judge(P1, D1, tokens).verdict is verdict


@pytest.mark.parametrize(
    ("verdict", "good"),
    [
        (Verdict.HANDED_OVER, True),
        (Verdict.UNPROVEN, True),
        (Verdict.APART, True),
        (Verdict.UNTRIED, True),
        (Verdict.COMPUTED, False),
        (Verdict.FAILED, False),
    ],
)
def test_a_fleet_is_as_good_as_its_pairs(verdict: Verdict, good: bool) -> None:
    engines, fine = [EngineFinding(P1), EngineFinding(D1)], PairFinding(P1, D2, Verdict.HANDED_OVER)
    assert Findings(engines, [fine, PairFinding(P1, D1, verdict)]).good is good


def test_and_as_its_engines() -> None:
    assert not Findings([EngineFinding(D1, "probe failed: connect_failed")], []).good


def test_a_fleet_that_cannot_answer_is_not_good() -> None:
    down = a_backend("decode", 14, up=False)
    for backends in ([], [P1], [down]):
        findings = Findings([EngineFinding(backend) for backend in backends], [])
        assert (findings.good, findings.problems) == (False, [NOBODY_ANSWERS])
    for backends in ([D1], [a_backend("aggregated", 15), down]):
        assert Findings([EngineFinding(backend) for backend in backends], []).good


def test_nor_is_one_with_a_source_that_is_not() -> None:
    findings = Findings([EngineFinding(D1)], [], ["file: no engine is listed there"])
    assert (findings.good, findings.problems) == (False, ["file: no engine is listed there"])


def test_an_engine_all_of_whose_partners_are_apart_has_a_problem() -> None:
    pairs = [
        PairFinding(P1, D1, Verdict.HANDED_OVER),
        PairFinding(P1, D2, Verdict.APART, "'a' and 'b'"),
    ]
    assert with_partners(EngineFinding(P1), pairs).problem is None
    assert with_partners(EngineFinding(D1), pairs).problem is None
    lone = with_partners(EngineFinding(D2), pairs)
    assert lone.problem == "no partner: 'a' and 'b'"
    assert lone.advice


def test_where_nobody_hands_over_nobody_needs_a_partner() -> None:
    assert with_partners(EngineFinding(D1), []).problem is None


def test_a_prefill_engine_without_any_partner_has_a_problem() -> None:
    lone = with_partners(EngineFinding(P1), [PairFinding(P2, D1, Verdict.HANDED_OVER)])
    assert lone.problem == "no partner: there is no decode engine"
    assert lone.advice


def test_what_is_wrong_with_the_engine_itself_comes_first() -> None:
    down = EngineFinding(D2, "probe failed: connect_failed")
    assert with_partners(down, [PairFinding(P1, D2, Verdict.APART)]) is down
