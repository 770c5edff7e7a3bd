"""What is every section made of? Strict keys, and kinds of values that many of them have."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

ENV_PREFIX = "PD_ROUTER_"


def _variable(name: str) -> str:
    """Name of an environment variable; a secret that was written in its place seldom looks like one."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("must be the name of an environment variable, not what is in it")
    return name


def _name(name: str) -> str:
    """What engines and people call something; it is shown again, in JSON and metrics."""
    if not name.isprintable() or not name.strip():
        raise ValueError("must be printable text that is not empty")
    return name


Name = Annotated[str, AfterValidator(_name)]
Variable = Annotated[str, AfterValidator(_variable)]
Seconds = Annotated[float, Field(gt=0, le=86400)]


class Section(BaseModel):
    """A branch of the tree: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
