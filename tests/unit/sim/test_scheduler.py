"""Steps of an engine, on virtual time."""

import asyncio

import pytest

from router.sim.config import SimConfig
from router.sim.core import CORE_DIED, EngineCore
from router.sim.ledger import Ledger
from router.sim.sequence import Phase, Sequence
from router.sim.text import reference_text
from tests.support.sim_pair import Collector
from tests.support.virtual_time import virtual_time


class Run:
    """One engine core without HTTP."""

    def __init__(self, **settings: object) -> None:
        self.ledger, self.died = Ledger(), 0
        self.config = SimConfig(**({"decode_step_s": 1.0} | settings))  # type: ignore[arg-type]
        self.core = EngineCore(self.config, self.ledger, self._die)

    def add(self, prompt: str, max_tokens: int = 4) -> tuple[Sequence, Collector]:
        """A sequence with the prompt of a completion."""
        heard = Collector()
        text = prompt.encode()
        sequence = Sequence(prompt[:8], text + bytes(-len(text) % 4), max_tokens, "length", heard)
        self.core.scheduler.add(sequence)
        return sequence, heard

    def gauges(self) -> tuple[int, int, int]:
        """Running, waiting, blocks in use."""
        return self.core.scheduler.running, self.core.scheduler.waiting, self.core.pool.in_use

    def _die(self) -> None:
        self.died += 1


def right(prompt: str, max_tokens: int = 4) -> str:
    """What a lone engine generates."""
    return reference_text("sim-8b", "completions", {"prompt": prompt, "max_tokens": max_tokens}).text


@virtual_time
async def test_all_sequences_of_an_engine_step_together() -> None:
    run = Run()
    _, first = run.add("one")
    await asyncio.sleep(0.5)
    _, second = run.add("two")
    await asyncio.sleep(10)
    assert (first.text, second.text) == (right("one"), right("two"))
    assert [round(time_s - 1000, 3) for time_s in first.times_s] == [0, 1, 2, 3]
    assert [round(time_s - 1000, 3) for time_s in second.times_s] == [2, 3, 4, 5]


@virtual_time
async def test_the_batch_is_bounded_and_the_rest_waits_in_order() -> None:
    run = Run(max_num_seqs=2)
    heard = [run.add(f"prompt {number}")[1] for number in range(4)]
    await asyncio.sleep(1.5)
    assert run.gauges() == (2, 2, 2)
    await asyncio.sleep(20)
    assert run.gauges() == (0, 0, 0)
    starts = [each.times_s[0] for each in heard]
    assert starts == sorted(starts)
    assert starts[1] < starts[2]


@virtual_time
async def test_a_prompt_waits_for_blocks() -> None:
    run = Run(kv_blocks=4)
    _, first = run.add("a" * 200, max_tokens=8)
    _, second = run.add("b" * 200)
    await asyncio.sleep(5)
    assert (len(first.pieces), second.pieces, run.gauges()) == (6, [], (1, 1, 4))
    await asyncio.sleep(10)
    assert (first.ends, second.text) == (["length"], right("b" * 200))


@virtual_time
async def test_a_long_prompt_is_computed_in_chunks_and_stalls_decode() -> None:
    run = Run(gpu="h200", decode_step_s=None, max_num_batched_tokens=2048)
    _, stream = run.add("short", max_tokens=60)
    await asyncio.sleep(0.1)
    run.add("x" * 4 * 8000)
    await asyncio.sleep(5)
    gaps = sorted(after - before for before, after in zip(stream.times_s, stream.times_s[1:], strict=False))
    assert gaps[0] == pytest.approx(4.6e-3, rel=0.05)
    assert sum(1 for gap in gaps if gap > 0.05) == 4


@virtual_time
async def test_a_sequence_without_room_to_grow_is_preempted_and_goes_on_with_the_same_text() -> None:
    run = Run(kv_blocks=5)
    sequence, first = run.add("a" * 120, max_tokens=20)
    _, second = run.add("b" * 120, max_tokens=20)
    await asyncio.sleep(100)
    assert run.core.counters.preemptions >= 1
    assert (first.text, second.text) == (right("a" * 120, 20), right("b" * 120, 20))
    assert run.core.counters.prompt_tokens == 60
    assert sequence.length_tokens == 30 + 19
    assert run.gauges() == (0, 0, 0)


@virtual_time
async def test_the_token_budget_of_a_step_is_shared() -> None:
    run = Run(gpu="h200", decode_step_s=None, max_num_batched_tokens=8192)
    run.core.freeze()
    first, second = (run.add(letter * 4 * 8000)[1] for letter in "xy")
    run.core.thaw()
    await asyncio.sleep(5)
    assert second.times_s[0] - first.times_s[0] > 0.1


@virtual_time
async def test_an_aborted_sequence_frees_its_place_wherever_it_stands() -> None:
    run = Run(max_num_seqs=1)
    running, heard = run.add("one")
    waiting, _ = run.add("two")
    await asyncio.sleep(1.5)
    run.core.scheduler.abort(waiting)
    run.core.scheduler.abort(running)
    run.core.scheduler.abort(running)
    assert run.gauges() == (0, 0, 0)
    await asyncio.sleep(5)
    assert (len(heard.pieces), heard.ends, run.core.counters.finished["abort"]) == (2, [], 2)


@virtual_time
async def test_an_ended_sequence_cannot_be_aborted() -> None:
    run = Run()
    sequence, _ = run.add("one")
    await asyncio.sleep(10)
    run.core.scheduler.abort(sequence)
    assert run.core.counters.finished["abort"] == 0
    assert sequence.phase is Phase.DONE


@virtual_time
async def test_a_frozen_engine_keeps_everything_and_goes_on() -> None:
    run = Run()
    sequence, heard = run.add("one", max_tokens=4)
    aborted, _ = run.add("two", max_tokens=4)
    await asyncio.sleep(1.5)
    run.core.freeze()
    run.add("three")
    run.core.scheduler.abort(aborted)
    await asyncio.sleep(100)
    assert (len(heard.pieces), run.gauges()) == (2, (2, 1, 2))
    run.core.thaw()
    assert run.gauges() == (2, 0, 2)
    await asyncio.sleep(10)
    assert (heard.text, sequence.phase) == (right("one"), Phase.DONE)
    assert run.gauges() == (0, 0, 0)


@virtual_time
async def test_a_frozen_idle_engine_takes_nothing_up() -> None:
    run = Run()
    run.core.freeze()
    _, heard = run.add("one")
    await asyncio.sleep(10)
    assert (run.gauges(), heard.pieces) == ((0, 1, 0), [])


@virtual_time
async def test_an_aborted_sequence_does_not_hear_of_the_engines_death() -> None:
    run = Run()
    sequence, heard = run.add("one")
    run.core.freeze()
    run.core.scheduler.abort(sequence)
    run.core.die("test")
    assert heard.ends == []


@virtual_time
async def test_when_the_engine_dies_every_sequence_fails_once() -> None:
    run = Run(max_num_seqs=1)
    heard = [run.add("one")[1], run.add("two")[1]]
    await asyncio.sleep(1.5)
    run.core.die("test")
    run.core.die("again")
    heard.append(run.add("three")[1])
    await asyncio.sleep(10)
    assert [each.ends for each in heard] == [[CORE_DIED]] * 3
    assert (run.died, run.ledger.totals.deaths) == (1, 1)
    run.core.thaw()


@virtual_time
async def test_steps_that_come_late_are_not_made_up_for() -> None:
    run = Run(decode_step_s=0.01)
    _, heard = run.add("one", max_tokens=100)
    await asyncio.sleep(0.105)
    loop = asyncio.get_running_loop()
    loop._clock.now_s += 10  # type: ignore[attr-defined]
    await asyncio.sleep(0.2)
    gaps = [after - before for before, after in zip(heard.times_s, heard.times_s[1:], strict=False)]
    assert max(gaps) > 9.9
    assert sum(1 for gap in gaps if gap < 0.009) <= 1
