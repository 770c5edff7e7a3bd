"""Is a streamed chat completion complete and in order? Judged event by event, by what OpenAI's format promises."""

from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

DONE = "[DONE]"


class WrongAnswer(Exception):
    """An answer that must not be counted; says what was wrong."""


@dataclass(slots=True)
class Answer:
    """One streamed answer. Times are those of the given clock, one for every event that brought text."""

    max_tokens: int
    text: str = ""
    at_s: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    completion_tokens: int | None = None
    done: bool = False

    async def read(self, lines: AsyncIterable[str], clock: Callable[[], float]) -> None:
        """Take all lines of the body. Raises `WrongAnswer`."""
        async for line in lines:
            if not line or line.startswith(":"):
                continue
            if not line.startswith("data:"):
                raise WrongAnswer(f"not an event: {line[:200]}")
            self._event(line.removeprefix("data:").strip(), clock)
        self._complete()

    def compare(self, text: str) -> None:
        """Raise `WrongAnswer` unless the text is this one."""
        if self.text != text:
            raise WrongAnswer("another text than the first answer to this prompt")

    def _event(self, data: str, clock: Callable[[], float]) -> None:
        if self.done:
            raise WrongAnswer("an event after [DONE]")
        if data == DONE:
            self.done = True
            return
        try:
            event: dict[str, Any] = orjson.loads(data)
            if "error" in event:
                raise WrongAnswer(f"error event after {len(self.at_s)} events: {event['error'].get('message')}")
            choices = event["choices"]
            if usage := event.get("usage"):
                self.completion_tokens = usage["completion_tokens"]
            for choice in choices:
                self._choice(choice, clock)
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
            raise WrongAnswer(f"not a chunk of a chat completion: {data[:200]}") from None

    def _choice(self, choice: dict[str, Any], clock: Callable[[], float]) -> None:
        delta = choice["delta"]
        text = "".join(delta.get(name) or "" for name in ("reasoning_content", "reasoning", "content"))
        if text:
            if self.finish_reason:
                raise WrongAnswer("text after the finish reason")
            self.text += text
            self.at_s.append(clock())
        self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def _complete(self) -> None:
        """The end was announced twice over, and the engine's count agrees with what was asked for."""
        if not self.done:
            raise WrongAnswer(f"ended after {len(self.at_s)} events without [DONE]")
        if self.finish_reason not in ("stop", "length"):
            raise WrongAnswer(f"finish reason {self.finish_reason}")
        if not self.text:
            raise WrongAnswer("no text")
        count = self.completion_tokens
        if count is None:
            raise WrongAnswer("no usage, though it was asked for")
        if count > self.max_tokens or (self.finish_reason == "length" and count != self.max_tokens):
            raise WrongAnswer(f"{count} tokens, {self.max_tokens} were asked for")
