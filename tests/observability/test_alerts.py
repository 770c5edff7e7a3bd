"""Does each alert fire when its fault is there, and clear when it is gone? On a real Prometheus, minutes as seconds.

Not here: `PdRouterTtftBurnSlow`, whose windows are days, and `PdRouterInvariantViolated`, which takes an error of the
gateway's own; `promtool` plays those (`deploy/prometheus/tests`). `PdRouterEngineOut` has an account of its own.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from router.sim.faults import Fault
from tests.observability.stack import Stack, until

pytestmark = pytest.mark.timeout(300)

SEEN_WITHIN_S = 90
"""Every wait of a rule is over in 15 s; what takes longer is a busy machine."""

Injected = Callable[[Stack], AbstractContextManager[None]]


def every(role: str, *faults: Fault) -> Injected:
    """These happen to all engines of a pool, while the block runs."""

    @contextlib.contextmanager
    def injected(stack: Stack) -> Iterator[None]:
        for engine in stack.of_role(role):
            engine.add(*faults)
        yield
        stack.well()

    return injected


@contextlib.contextmanager
def dead(stack: Stack, *roles: str) -> Iterator[None]:
    """All engines of some pools are gone."""
    engines = [engine for role in roles for engine in stack.of_role(role)]
    for engine in engines:
        engine.kill()
    yield
    for engine in engines:
        engine.start()


def gone(*roles: str) -> Injected:
    """All engines of these pools die, and are started again."""
    return lambda stack: dead(stack, *roles)


@contextlib.contextmanager
def stopped(stack: Stack) -> Iterator[None]:
    """The gateway's process stands still."""
    stack.signal_gateway(signal.SIGSTOP)
    try:
        yield
    finally:
        stack.signal_gateway(signal.SIGCONT)


@contextlib.contextmanager
def stuttering(stack: Stack) -> Iterator[None]:
    """The gateway's process stands still for 0.3 s now and then."""
    over = threading.Event()

    def stutter() -> None:
        while not over.wait(0.7):
            with stopped(stack):
                over.wait(0.3)

    thread = threading.Thread(target=stutter)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def illegible(stack: Stack) -> Iterator[None]:
    """The list of engines cannot be read."""
    right = stack.listed.read_text()
    stack.listed.write_text("- {url: ")
    try:
        yield
    finally:
        stack.listed.write_text(right)


@contextlib.contextmanager
def crowded(stack: Stack) -> Iterator[None]:
    """The load opens more connections than one address may have; it is ended instead of mended."""
    yield
    stack.end_load()


FAULTS: dict[tuple[str, str], Injected] = {
    ("PdRouterGatewayDown", ""): stopped,
    ("PdRouterNoUsableRoute", ""): gone("prefill", "decode"),
    ("PdRouterTtftBurnFast", ""): every("decode", Fault("delay", delay_s=3.5)),
    ("PdRouterErrors", ""): every("decode", Fault("status", status=500)),
    ("PdRouterPoolHalfOut", "prefill"): gone("prefill"),
    ("PdRouterDiscoveryStale", ""): illegible,
    ("PdRouterPrefillQueue", "prefill"): every("prefill", Fault("delay", delay_s=1.5)),
    ("PdRouterDecodeQueue", "decode"): every("decode", Fault("delay", delay_s=1)),
    ("PdRouterSaturated", "decode"): every("decode", Fault("delay", delay_s=2)),
    ("PdRouterFallbackInUse", ""): gone("prefill"),
    ("PdRouterKvStranded", ""): every("prefill", Fault("malformed_params")),
    ("PdRouterTransferFailures", "decode"): every(
        "prefill", Fault("malformed_params", variant="stale_engine_id", share=0.5)
    ),
    ("PdRouterPairQuarantined", ""): every("decode", Fault("first_event_error")),
    ("PdRouterLoopLag", ""): stuttering,
    ("PdRouterShedding", ""): crowded,
}
"""Name, and the pool if it is about one: what brings it."""


@pytest.mark.parametrize("alert", list(FAULTS), ids=lambda alert: alert[0])
def test_it_fires_on_its_fault_and_clears(stack: Stack, alert: tuple[str, str]) -> None:
    name, pool = alert

    def firing() -> bool:
        return any(one == name and (not pool or about == pool or ":" in about) for one, about in stack.firing())

    until(stack.well, "all engines to be well", SEEN_WITHIN_S)
    if name != "PdRouterShedding":
        until(lambda: not firing(), f"{name} to be quiet", SEEN_WITHIN_S)
    with FAULTS[alert](stack):
        fired_s = until(firing, f"{name} to fire", SEEN_WITHIN_S)
    cleared_s = until(lambda: not firing(), f"{name} to clear", SEEN_WITHIN_S)
    if name == "PdRouterShedding":
        stack.start_load()
    print(f"\n{name}: fires after {fired_s:.1f} s, clears {cleared_s:.1f} s after the fault is gone", end="")
