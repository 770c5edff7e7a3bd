from router.bench.ramp.fleet import ElasticFleet, Shape
from router.bench.replay.timeline import Timeline
from router.bench.replay.trace import MODEL, Request
from router.scaling.work import PrefillWork
from router.settings.engines import Role

D = Role.DECODE
SHAPE = Shape({Role.PREFILL: "h100", D: "h200"}, {Role.PREFILL: 100_000, D: 100_000}, start_up_s=100)


def test_engines_take_a_while_to_come() -> None:
    timeline = Timeline()
    elastic = ElasticFleet(timeline, SHAPE, PrefillWork())
    elastic.add(D)
    elastic.scale(D, 3)
    elastic.scale(D, 3)
    assert elastic.replicas(D) == 1
    timeline.run()
    assert (elastic.replicas(D), timeline.now_s) == (3, 100)


def test_what_is_not_wanted_any_more_does_not_come() -> None:
    timeline = Timeline()
    elastic = ElasticFleet(timeline, SHAPE, PrefillWork())
    elastic.add(D)
    elastic.scale(D, 3)
    elastic.scale(D, 1)
    timeline.run()
    assert elastic.replicas(D) == 1


def test_the_idlest_engine_goes_and_ends_what_it_has() -> None:
    timeline, work = Timeline(), PrefillWork()
    elastic = ElasticFleet(timeline, SHAPE, work)
    for role in (Role.PREFILL, D, D):
        elastic.add(role)
    elastic.submit(Request(0.0, 1000, 50, (1, 2)))
    timeline.at(0.5, lambda: elastic.scale(D, 1))
    timeline.run()
    assert [at > ttft > 0 for at, ttft in elastic.ttft_s] == [False]
    assert len(elastic.ttft_s) == 1
    assert all(not backend.load.requests for backend in elastic.fleet.backends)
    assert (work.of(MODEL).tokens, work.of(MODEL).busy_s > 0) == (1000, True)


def test_decode_engines_tell_of_themselves() -> None:
    timeline = Timeline()
    elastic = ElasticFleet(timeline, SHAPE, PrefillWork())
    for role in (Role.PREFILL, D):
        elastic.add(role)
    elastic.submit(Request(0.0, 1000, 500, (1, 2)))
    timeline.at(1.0, elastic.scrape)
    timeline.run()
    gauges = elastic.fleet.backends[1].progress.gauges
    assert gauges is not None
    assert (gauges.running, gauges.kv_usage_ratio, 100 < gauges.generated_tokens < 500) == (1, 0.01, True)
