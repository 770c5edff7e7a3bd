"""How long do so many tokens take? Learnt from what requests took, as `fixed_s + s_per_token * tokens`.

Fitted by least squares over relative errors, so that short prompts tell the fixed part and long ones the rest; each
sample counts less than the next. What is `FAR` times off is not believed at once: a pause, a handshake, somebody
else's prompt. When `CONFIRMED` in a row are off to the same side, things have changed: all before them is forgotten.
So one delay moves nothing, and a link that became 27 times slower is known after three hand-overs. A window's median
would be as robust, and ten times as dear to fit with two parameters.
"""

from collections.abc import Sequence

MEMORY = 0.85
"""What is left of a sample's weight after the next: the last seven count."""

ENOUGH = 3
"""Samples from which on there is an estimate."""

FAR, CONFIRMED = 3.0, 3
NOISE_S = 0.005
"""A step of decode, more or less, is never far off."""

LEAST_TOKENS = 64
"""Shorter is not told apart: what engines hold is known by blocks of so many."""

REACH = 8
"""An estimate is good for prompts up to so many times the longest that it was learnt from."""

SPREAD = 0.2
"""Of lengths that differ by less than this part, the fixed part cannot be told."""

Sample = tuple[int, float]


class Pace:
    """Seconds by tokens. `tokens_per_s` is the speed at `compared_tokens`, None while it is not known."""

    __slots__ = (
        *("_count", "_doubts", "_first", "_r", "_rr", "_rz", "_z", "compared_tokens"),
        *("fixed_s", "longest_tokens", "s_per_token", "samples", "tokens_per_s"),
    )

    def __init__(self, compared_tokens: int) -> None:
        self.compared_tokens = compared_tokens
        self.tokens_per_s: float | None = None
        self._doubts: list[Sample] = []
        self._first: list[Sample] = []
        self._restart()

    def _restart(self) -> None:
        self._count = self._r = self._z = self._rr = self._rz = 0.0
        self.samples = self.longest_tokens = 0
        self.fixed_s = self.s_per_token = 0.0

    def note(self, tokens: int, took_s: float) -> None:
        """So many tokens took that long."""
        if self.samples >= ENOUGH and self._is_far(tokens, took_s):
            if len(self._doubts) < CONFIRMED:
                return
            samples, self._doubts = self._doubts, []
            self._restart()
            for sample in samples:
                self._add(*sample)
        else:
            if self._doubts:
                self._doubts.clear()
            self._add(tokens, took_s)
            if self.samples <= ENOUGH:
                self._begin_well(tokens, took_s)
        self._fit()

    def seconds(self, tokens: int, before: int = 0) -> float | None:
        """How long `tokens` take, with so many before them in line; None while that is not known."""
        if self.samples < ENOUGH or tokens > REACH * self.longest_tokens:
            return None
        return self.fixed_s + self.s_per_token * max(tokens + before, LEAST_TOKENS)

    def seen(self, tokens: int) -> Sequence[Sample]:
        """Tokens and seconds of what there was, where that is no estimate for `tokens`; else nothing.

        While they are too few that is all of them, and of those that are too short the longest, as it would be now.
        """
        if self.samples < ENOUGH:
            return self._first
        if tokens <= REACH * self.longest_tokens:
            return ()
        return ((self.longest_tokens, self._expected_s(self.longest_tokens)),)

    @property
    def in_doubt(self) -> bool:
        """Whether the last sample was far off: the next ones tell whether things have changed."""
        return bool(self._doubts)

    def _begin_well(self, tokens: int, took_s: float) -> None:
        """Drop the very first sample if all after it are far better: two engines had to shake hands."""
        self._first.append((tokens, took_s))
        if self.samples == ENOUGH:
            first, *others = self._first
            self._first = []
            longest_s = max(took_s for _, took_s in others)
            if first[1] > longest_s and _each_s(first) > FAR * max(map(_each_s, others)):
                self._restart()
                self._first = others
                for sample in others:
                    self._add(*sample)

    def _is_far(self, tokens: int, took_s: float) -> bool:
        """Whether a sample is far off; it is kept with those before it that are off to the same side."""
        expected_s = self._expected_s(tokens)
        if abs(took_s - expected_s) <= NOISE_S or expected_s <= FAR * took_s <= FAR * FAR * expected_s:
            return False
        if self._doubts:
            before_tokens, before_s = self._doubts[-1]
            if (before_s > self._expected_s(before_tokens)) is not (took_s > expected_s):
                self._doubts.clear()
        self._doubts.append((tokens, took_s))
        return True

    def _expected_s(self, tokens: int) -> float:
        return self.fixed_s + self.s_per_token * max(tokens, LEAST_TOKENS)

    def _add(self, tokens: int, took_s: float) -> None:
        """A line in 1/tokens: seconds per token are `s_per_token` and the fixed part's share."""
        r = 1 / max(tokens, LEAST_TOKENS)
        z = took_s * r
        self._count = self._count * MEMORY + 1
        self._r = self._r * MEMORY + r
        self._z = self._z * MEMORY + z
        self._rr = self._rr * MEMORY + r * r
        self._rz = self._rz * MEMORY + r * z
        self.samples += 1
        if tokens > self.longest_tokens:
            self.longest_tokens = tokens

    def _fit(self) -> None:
        count, r, z = self._count, self._r, self._z
        variance = count * self._rr - r * r
        fixed_s = 0.0
        if variance > (SPREAD * r) ** 2:
            fixed_s = max(0.0, (count * self._rz - r * z) / variance)
        s_per_token = (z - fixed_s * r) / count
        if s_per_token < 0:
            fixed_s, s_per_token = self._rz / self._rr, 0.0
        self.fixed_s, self.s_per_token = fixed_s, s_per_token
        took_s = self._expected_s(self.compared_tokens)
        known = self.samples >= ENOUGH and self.compared_tokens <= REACH * self.longest_tokens
        self.tokens_per_s = self.compared_tokens / took_s if known and took_s > 0 else None

    def __repr__(self) -> str:
        return f"<Pace {self.fixed_s:.4f} s + {1e6 * self.s_per_token:.1f} us a token, {self.samples} samples>"


def _each_s(sample: Sample) -> float:
    tokens, took_s = sample
    return took_s / max(tokens, LEAST_TOKENS)


PROMPT_TOKENS = 2048
ANSWER_TOKENS = 128
"""The lengths at which engines are compared."""


class Paces:
    """Of one engine: `compute` prompts, from request to first token; `decode` an answer, from its first to its last."""

    __slots__ = ("compute", "decode")

    def __init__(self) -> None:
        self.compute = Pace(PROMPT_TOKENS)
        self.decode = Pace(ANSWER_TOKENS)

    def __repr__(self) -> str:
        return f"<Paces {self.compute!r} {self.decode!r}>"
