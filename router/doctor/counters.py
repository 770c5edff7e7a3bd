"""Where did an engine have its prompts from? What its own counters say, which is the proof of a hand-over."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from router.errors import EngineFault
from router.fleet.ask import Ask
from router.fleet.backend import Backend

SOURCES = {"external_kv_transfer": "pulled", "local_cache_hit": "cached", "local_compute": "computed"}


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Prompt tokens by where they came from, and transfers that failed; sums over an engine's life, or a difference."""

    pulled: int = 0
    cached: int = 0
    computed: int = 0
    failed_transfers: int = 0

    @property
    def total(self) -> int:
        """Prompt tokens from everywhere."""
        return self.pulled + self.cached + self.computed

    def __sub__(self, earlier: "PromptTokens") -> "PromptTokens":
        return PromptTokens(
            self.pulled - earlier.pulled,
            self.cached - earlier.cached,
            self.computed - earlier.computed,
            self.failed_transfers - earlier.failed_transfers,
        )


@dataclass(frozen=True, slots=True)
class Counters:
    """What an engine counts. `has_connector`: it was started with one for NIXL."""

    tokens: PromptTokens
    has_connector: bool


async def read(ask: Ask, backend: Backend, timeout_s: float) -> Counters | None:
    """The counters of a vLLM engine; None of one that has none, or cannot tell them now."""
    try:
        page = await ask(backend, "/metrics", timeout_s)
        samples = list(_samples(page.body.decode())) if page.ok else []
    except (EngineFault, ValueError):
        return None
    return _counters(samples) if samples else None


def _samples(page: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(page):
        if family.name.startswith("vllm:"):
            yield from family.samples


def _counters(samples: list[Sample]) -> Counters:
    sums = dict.fromkeys((*SOURCES.values(), "failed_transfers"), 0)
    for sample in samples:
        if sample.name == "vllm:prompt_tokens_by_source_total" and sample.labels.get("source") in SOURCES:
            sums[SOURCES[sample.labels["source"]]] += int(sample.value)
        elif sample.name == "vllm:nixl_num_failed_transfers_total":
            sums["failed_transfers"] += int(sample.value)
    return Counters(PromptTokens(**sums), any(sample.name.startswith("vllm:nixl_") for sample in samples))
