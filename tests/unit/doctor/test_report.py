from router.doctor import report
from router.doctor.counters import PromptTokens
from router.doctor.examine import EngineFinding, Findings, PairFinding, Verdict
from router.exchange.rehearsal import Rehearsed
from router.fleet.backend import ModelCard
from router.fleet.identity import Identity
from tests.support.builders import a_backend

PREFILL, DECODE, DOWN = a_backend("prefill", 8200), a_backend("decode", 8201), a_backend("decode", 8202, up=False)
for up in (PREFILL, DECODE):
    up.learn(Identity("0.32.0", ("m",)))
    up.models = {"m": ModelCard("m", 4096)}
DOWN.models = {}

FINDINGS = Findings(
    [
        EngineFinding(PREFILL),
        EngineFinding(DECODE),
        EngineFinding(DOWN, "probe failed: connect_failed", "is it started?"),
    ],
    [
        PairFinding(
            PREFILL,
            DECODE,
            Verdict.HANDED_OVER,
            rehearsed=Rehearsed(9, 0.0161, 0.25),
            tokens=PromptTokens(pulled=9),
        ),
        PairFinding(PREFILL, DOWN, Verdict.UNTRIED),
    ],
)

TEXT = """\
engine          role     state    version  model     lease as set
127.0.0.1:8200  prefill  up       0.32.0   m (4096)  30 s
127.0.0.1:8201  decode   up       0.32.0   m (4096)  -
127.0.0.1:8202  decode   unknown  ?        ?         -
    probe failed: connect_failed
    next: is it started?

prefill         decode          result       prefill took  hand-over took  prompt tokens
127.0.0.1:8200  127.0.0.1:8201  handed over  16 ms         250 ms          9 pulled, 0 computed
127.0.0.1:8200  127.0.0.1:8202  not tried    -             -               -

engines: 2 of 3 up; pairs: 1 handed over, 1 not tried; something is to be done"""


def test_for_people() -> None:
    assert report.text(FINDINGS) == TEXT


def test_a_fleet_without_pairs() -> None:
    lines = report.text(Findings([EngineFinding(DECODE)], [])).splitlines()
    assert lines[-1] == "engines: 1 of 1 up; pairs: none; all is well"
    assert len(lines) == 4


def test_what_is_wrong_with_the_fleet_as_a_whole() -> None:
    told = Findings([EngineFinding(DECODE)], [], ["file: no engine is listed there"])
    lines = report.text(told).splitlines()
    assert lines[-3:-1] == ["file: no engine is listed there", ""]
    assert lines[-1].endswith("something is to be done")
    assert report.tree(told)["problems"] == ["file: no engine is listed there"]


def test_for_programs() -> None:
    tree = report.tree(FINDINGS)
    assert (tree["good"], tree["problems"]) == (False, [])
    assert tree["engines"][0] == {
        "url": "http://127.0.0.1:8200",
        "role": "prefill",
        "state": "up",
        "version": "0.32.0",
        "group": "0.32.0 m",
        "models": {"m": 4096},
        "kv_lease_s": 30,
        "problem": None,
        "advice": None,
    }
    assert tree["pairs"][0] == {
        "prefill": "http://127.0.0.1:8200",
        "decode": "http://127.0.0.1:8201",
        "verdict": "handed_over",
        "good": True,
        "prefill_ms": 16.1,
        "handoff_ms": 250.0,
        "prompt_tokens": 9,
        "pulled_tokens": 9,
        "computed_tokens": 0,
        "problem": None,
        "advice": None,
    }
    assert [tree["pairs"][1][name] for name in ("verdict", "prefill_ms", "pulled_tokens")] == ["untried", None, None]
