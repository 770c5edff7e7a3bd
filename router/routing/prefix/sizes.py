"""How many tokens is a prompt? An estimate from its bytes, learnt per model from what engines say afterwards.

English has about 4 bytes a token, code and other scripts differ, and so do vocabularies. What a model's last prompts
had, by engines' own `usage.prompt_tokens`, tells the next ones'; sums that decay forget old traffic, and give long
prompts, whose count says more, their weight, up to a limit.
"""

from dataclasses import dataclass

from router.call import BYTES_PER_TOKEN, Call

MEMORY = 0.98
"""How much of the sums is left after a prompt: the last 50 count."""

PRIOR_TOKENS = 500
"""The weight of the usual `BYTES_PER_TOKEN`, until there is something better."""

FEWEST_BYTES, MOST_BYTES = 0.5, 16.0
"""Bytes per token beyond which a count tells of something else: images, a template's own text."""

MOST_TOKENS = 4096
"""What one prompt counts for at most: a single long one that is unlike the others is not to speak for all of them."""

MIN_BYTES = 256
"""Of shorter prompts the template is a large part."""

MAX_MODELS = 1024
"""Adapters come and go; those that are not known have the usual size again."""


@dataclass(slots=True)
class _Sums:
    size_bytes: float
    tokens: float


class TokenSizes:
    """Bytes per token, model by model."""

    def __init__(self) -> None:
        self._models: dict[str, _Sums] = {}

    def bytes_per_token(self, model: str) -> float:
        """As the last prompts of `model` had it."""
        sums = self._models.get(model)
        return sums.size_bytes / sums.tokens if sums else BYTES_PER_TOKEN

    def tokens(self, call: Call) -> int:
        """How many tokens its prompt has; of token ids, exactly so many."""
        if not call.prompt_bytes:
            return call.prompt_tokens
        return max(1, round(call.prompt_bytes / self.bytes_per_token(call.model)))

    def learn(self, call: Call, prompt_tokens: int) -> None:
        """An engine has counted the tokens of a call's prompt."""
        if call.prompt_bytes < MIN_BYTES or not self._is_plausible(call.prompt_bytes, prompt_tokens):
            return
        sums = self._models.pop(call.model, None) or _Sums(PRIOR_TOKENS * BYTES_PER_TOKEN, PRIOR_TOKENS)
        share = min(1, MOST_TOKENS / prompt_tokens)
        sums.size_bytes = sums.size_bytes * MEMORY + call.prompt_bytes * share
        sums.tokens = sums.tokens * MEMORY + prompt_tokens * share
        self._models[call.model] = sums
        if len(self._models) > MAX_MODELS:
            del self._models[next(iter(self._models))]

    def _is_plausible(self, size_bytes: int, tokens: int) -> bool:
        return tokens > 0 and FEWEST_BYTES <= size_bytes / tokens <= MOST_BYTES
