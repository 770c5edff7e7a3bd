"""Who may hand over to whom? What an engine tells of itself, and the group that follows from it.

vLLM engines compare version, model and number formats at their first handshake and refuse each other when they differ.
The context length is not among that, and adapters come and go, so neither counts here. Number formats are not told:
engines that differ in nothing else need a configured group.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Identity:
    """The version of an engine, None when it does not tell, and the models it was started with."""

    version: str | None = None
    models: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The same for engines that can be expected to hand over to each other."""
        return " ".join([self.version or UNKNOWN, *self.models])


def identity(version: object, models: Any) -> Identity:  # noqa: ANN401 - any JSON
    """From what `/version` and `/v1/models` say, the latter a valid list."""
    told = version.get("version") if isinstance(version, dict) else None
    return Identity(told if isinstance(told, str) and told else None, tuple(sorted(set(_roots(models["data"])))))


def _roots(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Names or paths of the models themselves, whatever they are served as; adapters have a parent."""
    for entry in entries:
        if not entry.get("parent"):
            root = entry.get("root")
            yield root if isinstance(root, str) and root else entry["id"]
