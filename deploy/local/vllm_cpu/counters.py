"""What do an engine's own counters say about hand-overs?"""

import re
import urllib.request
from collections import defaultdict
from dataclasses import dataclass

_SAMPLE = re.compile(r"(vllm:\w+)(?:\{(.*)\})? (\S+)$")
_SOURCE = re.compile(r'source="([^"]*)"')
_BY_SOURCE = "vllm:prompt_tokens_by_source_total"


@dataclass(frozen=True)
class Counters:
    """Sums over an engine's life. They are published by a later engine step: read them a moment after an answer."""

    pulled_tokens: int
    cached_tokens: int
    computed_tokens: int
    pulled_bytes: int
    failed_transfers: int

    def __sub__(self, earlier: "Counters") -> "Counters":
        return Counters(
            self.pulled_tokens - earlier.pulled_tokens,
            self.cached_tokens - earlier.cached_tokens,
            self.computed_tokens - earlier.computed_tokens,
            self.pulled_bytes - earlier.pulled_bytes,
            self.failed_transfers - earlier.failed_transfers,
        )

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens from every source."""
        return self.pulled_tokens + self.cached_tokens + self.computed_tokens


def read(url: str) -> Counters:
    """The counters of the engine at origin `url`."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        sums = parse(answer.read().decode())
    return Counters(
        pulled_tokens=sums[f"{_BY_SOURCE}[external_kv_transfer]"],
        cached_tokens=sums[f"{_BY_SOURCE}[local_cache_hit]"],
        computed_tokens=sums[f"{_BY_SOURCE}[local_compute]"],
        pulled_bytes=sums["vllm:nixl_bytes_transferred_sum"],
        failed_transfers=sums["vllm:nixl_num_failed_transfers_total"],
    )


def parse(text: str) -> defaultdict[str, int]:
    """Sums by metric name and label `source`, over all other labels."""
    sums: defaultdict[str, int] = defaultdict(int)
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if sample and sample[3] not in ("NaN", "+Inf"):
            source = _SOURCE.search(sample[2] or "")
            sums[sample[1] + (f"[{source[1]}]" if source else "")] += int(float(sample[3]))
    return sums
