"""Which work is compared? Named loads, each with another thing that it wears on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop: so many streams, each of so many tokens, a token in so many milliseconds."""

    name: str
    streams: int
    token_interval_ms: float
    tokens: int
    prompt_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.streams} streams, {self.token_interval_ms:g} ms between tokens, {self.tokens} tokens, "
            f"prompts of {self.prompt_bytes / 1024:g} KB"
        )


PARTS = {
    load.name: load
    for load in (
        Load("short", streams=100, token_interval_ms=20, tokens=16, prompt_bytes=2048),
        Load("long", streams=100, token_interval_ms=20, tokens=128, prompt_bytes=2048),
    )
}
"""As many tokens a second in answers of two lengths: what a token costs, and what a request does beside its tokens."""

LOADS = {
    load.name: load
    for load in (
        Load("streams", streams=100, token_interval_ms=20, tokens=64, prompt_bytes=2048),  # the cost of a token
        Load("dense", streams=400, token_interval_ms=10, tokens=32, prompt_bytes=2048),  # a core that is nearly full
        Load("prefill-heavy", streams=50, token_interval_ms=10, tokens=8, prompt_bytes=32768),  # the cost of a request
    )
}
