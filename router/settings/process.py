"""How does the process run and stop? `process` and `drain`."""

from typing import Literal

from pydantic import Field

from router.settings.section import Seconds, Section


class Process(Section):
    """The process itself."""

    loop: Literal["uvloop", "asyncio"] = Field(
        "uvloop", description="Event loop; uvloop needs less CPU per token. `pd-router run` is always on asyncio."
    )


class Drain(Section):
    """How the gateway stops."""

    drain_accept_s: float = Field(
        5, ge=0, le=3600, description="Keeps accepting after SIGTERM while balancers notice /readyz."
    )
    drain_timeout_s: Seconds = Field(120, description="Streams still open after this are ended with an error event.")
