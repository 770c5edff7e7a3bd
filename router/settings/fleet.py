"""Which engines, and which pairs of them, may be used? `probes`, `scrapes`, `ejection` and `pairs`."""

from pydantic import Field

from router.settings.section import Seconds, Section


class Probes(Section):
    """Active health checks of engines."""

    interval_s: Seconds = Field(2, description="Pause between probes of an engine that is up, +-20 % jitter.")
    down_interval_s: Seconds = Field(
        0.5, description="Pause between probes of an engine that is down, so it returns soon."
    )
    timeout_s: Seconds = Field(1, description="A probe that takes longer has failed.")
    knock_timeout_s: Seconds = Field(
        20, description="An engine that fell silent is asked for one token again and again, each time for so long."
    )
    down_after: int = Field(3, ge=1, description="Failed probes in a row that take an engine out; one may be a hiccup.")
    up_after: int = Field(
        2, ge=1, description="Good probes in a row that bring an engine back; the first ever one suffices at start."
    )
    models_interval_s: Seconds = Field(
        30, description="Pause between looks at an engine's /v1/models and /version; adapters come and go."
    )


class Scrapes(Section):
    """Reading the engines' own metrics."""

    interval_s: Seconds = Field(1, description="Pause between looks at an engine's /metrics; 0.2 ms of CPU each.")
    timeout_s: Seconds = Field(1, description="An engine that takes longer tells nothing this time.")


class Ejection(Section):
    """Taking out an engine by how requests on it end; probes may be answered by an engine that works no more."""

    failures: int = Field(3, ge=1, description="Failed requests, or refused connections, in a row that take it out.")
    silences: int = Field(
        2, ge=1, description="Timeouts in a row, without a sign of work in between, that take it out: it hangs."
    )
    first_s: Seconds = Field(5, description="How long it is out before it is tried again; doubles while trials fail.")
    longest_s: Seconds = Field(60, description="Longest time out; an engine that worked for so long begins anew.")
    trial_successes: int = Field(2, ge=1, description="Good requests, one at a time, that bring it back.")
    slow_start_s: Seconds = Field(
        30, description="Over which the share of requests of an engine that came back grows to that of the others."
    )


class PairRules(Section):
    """Making engines acquainted, and leaving alone two that cannot hand over to each other, though each works."""

    failures: int = Field(2, ge=1, description="Failed hand-overs within quarantine_s.")
    quarantine_s: Seconds = Field(60, description="How long the pair is left alone.")
    warm_up: bool = Field(
        True, description="Two engines new to each other hand over one tiny prompt before requests need them to."
    )
    warm_up_timeout_s: Seconds = Field(15, description="For that; vLLM gives up a handshake after 5 s.")
