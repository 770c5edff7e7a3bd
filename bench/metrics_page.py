"""How long does a /metrics page hold the loop? `python -m bench.metrics_page`: a gateway with 64 engines makes its page
at once, as the library does, and a piece at a time, as it is served. Times are of CPU: other processes do not count.
"""

import asyncio
import random
import sys
import time
from collections.abc import Callable
from itertools import product

from prometheus_client.exposition import choose_encoder

from router.assembly import Assembly, build
from router.engines.gauges import Gauges
from router.settings.tree import Settings
from router.telemetry.histogram import BulkHistogram
from router.telemetry.page import page

ENGINES = 64
MODELS = 8
ROUNDS = 30
FORMATS = {"Prometheus text": "", "OpenMetrics": "application/openmetrics-text; version=1.0.0"}


def main() -> int:
    """Measure and print a Markdown table."""
    asyncio.run(_measure())
    return 0


async def _measure() -> None:
    app = _busy_gateway()
    print(f"| page of {ENGINES} engines and {MODELS} models | size | at once | longest piece |\n|---|---|---|---|")
    for name, accept in FORMATS.items():
        encode, _ = choose_encoder(accept)
        text, _ = await page(app.registry, accept)
        at_once_s = min([_seconds_of(lambda: encode(app.registry)) for _ in range(ROUNDS)])  # noqa: B023
        longest_s = min([await _longest_s(app, accept) for _ in range(ROUNDS)])
        print(f"| {name} | {len(text) >> 10} KiB | {at_once_s * 1e3:.1f} ms | {longest_s * 1e3:.1f} ms |")


def _busy_gateway() -> Assembly:
    backends = [{"url": f"http://10.0.0.{n}:1", "role": ("prefill", "decode")[n % 2]} for n in range(ENGINES)]
    app = build(Settings.model_validate({"backends": backends}))
    for backend in app.fleet.backends:
        backend.progress.gauges = Gauges(1, 2, 0.5, 100.0, 1.5, 3.0)
    for collector in app.registry._collector_to_names:  # noqa: SLF001 - there is no other way to it from here
        if isinstance(collector, BulkHistogram) and collector.labels == ("model", "route"):
            for model, route in product(range(MODELS), ("disaggregated", "local")):
                collector.observe_all((f"model-{model}", route), [random.expovariate(1) for _ in range(100)])
    return app


def _seconds_of(work: Callable[[], object]) -> float:
    begin_s = time.thread_time()
    work()
    return time.thread_time() - begin_s


async def _longest_s(app: Assembly, accept: str) -> float:
    """The longest time in which nobody else had a turn while a page was made."""
    gaps_s, over = [0.0], False

    async def look() -> None:
        last_s = time.thread_time()
        while not over:
            await asyncio.sleep(0)
            now_s = time.thread_time()
            gaps_s.append(now_s - last_s)
            last_s = now_s

    looking = asyncio.get_running_loop().create_task(look())
    await asyncio.sleep(0)
    await page(app.registry, accept)
    over = True
    await looking
    return max(gaps_s)


if __name__ == "__main__":
    sys.exit(main())
