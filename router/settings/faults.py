"""What is said about settings that cannot be used? One line per fault: the key, what is wrong, what is allowed."""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from router.settings.tree import Settings

CREDENTIALS = re.compile(r"//[^/\s]*@")
"""In a URL: name and password."""


class SettingsError(Exception):
    """Settings that cannot be used; `faults` has one line per fault, each naming its key and what is allowed."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def explain(fault: ErrorDetails, below: tuple[str | int, ...] = ()) -> str:
    """One line for one pydantic fault: the key, what is wrong, what is allowed."""
    loc = below + fault["loc"]
    key = ".".join(str(part) for part in loc)
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown setting{nearest(str(loc[-1]), _fields_at(loc[:-1]))}"
    if fault["type"] == "missing":
        return f"{key}: must be given"
    message = fault["msg"].removeprefix("Value error, ")
    got = "" if key.endswith(("_env", "_key_file")) else f" (got {CREDENTIALS.sub('//***@', repr(fault['input']))})"
    return f"{key}: {message[0].lower()}{message[1:]}{got}"


def _fields_at(loc: tuple[str | int, ...]) -> Mapping[str, Any]:
    """The fields of the section that a path leads to."""
    model: type[BaseModel] = Settings
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            kind = model.model_fields[part].annotation
            kind = next((arg for arg in get_args(kind) if arg is not ...), kind)
            model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else model
    return model.model_fields


def nearest(name: str, known: Mapping[str, Any], prefix: str = "", style: Callable[[str], str] = str) -> str:
    """What follows on a name that is not known: the one that was meant, it seems, or all that there are."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {prefix}{style(close[0])}?"
    return f"; known here: {', '.join(prefix + style(field) for field in known)}"
