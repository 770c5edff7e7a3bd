"""How many tokens were computed, as engines tell it in an answer's `usage`."""

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer; `cached_tokens` are those of the prompt that the engine had already, where it tells."""

    prompt_tokens: int
    generated_tokens: int
    cached_tokens: int | None

    @classmethod
    def of(cls, content: dict[str, Any]) -> Self | None:
        """The usage in an answer or event; None where it is missing or is none."""
        usage = content.get("usage")
        if not isinstance(usage, dict):
            return None
        prompt, generated = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        details = usage.get("prompt_tokens_details")
        cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
        return None if prompt is None else cls(prompt, generated or 0, cached)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
