"""How long is an engine waited for, and when is another one tried? `timeouts`, `handoff` and `retries`."""

from pydantic import Field

from router.settings.section import Seconds, Section


class Timeouts(Section):
    """Bounds on waiting for engines. Bare values are what a small prompt gets; two of them grow with the prompt."""

    connect_s: Seconds = Field(1, description="TCP connect to an engine; a live one in the same network needs 1 ms.")
    prefill_timeout_s: Seconds = Field(60, description="Whole prefill answer; grows by 1 s per 1,000 prompt tokens.")
    first_event_timeout_s: Seconds = Field(
        30, description="First event of a stream, hand-over included; grows by 1 s per 1,000 prompt tokens."
    )
    stream_idle_s: Seconds = Field(30, description="Longest silence inside a stream; engines emit every few ms.")
    total_s: Seconds = Field(600, description="Whole request; the OpenAI SDK gives up after 600 s too.")
    write_stall_s: Seconds = Field(60, description="A client that takes no byte for this long is dropped.")


class HandoffSettings(Section):
    """Life of a hand-over between prefill and decode."""

    handoff_max_age_s: Seconds | None = Field(
        None, description="Oldest hand-over that may be used; default: a third of the prefill engine's kv_lease_s."
    )
    release_timeout_s: Seconds = Field(2, description="Time to give unused KV back; a decode engine needs 6-15 ms.")
    max_releases: int = Field(64, ge=1, description="Releases in flight; KV beyond that is left to the engine's lease.")


class Retries(Section):
    """Trying a request again on other engines, before anything of an answer went out."""

    prefill_tries: int = Field(3, ge=1, description="Prefill engines that a request is tried on; then see routing.")
    decode_tries: int = Field(3, ge=1, description="Times that a request is sent to a decode or aggregated engine.")
    share: float = Field(0.2, ge=0, le=1, description="Retries per request of the last window_s, over each pool.")
    reserve: int = Field(3, ge=0, description="Retries in window_s beside the share, for when there are few requests.")
    window_s: Seconds = Field(10, description="Over which requests and retries are counted.")
    min_pause_s: float = Field(0.025, ge=0, description="Shortest pause before a retry; none after a lost connection.")
    max_pause_s: float = Field(0.25, ge=0, description="Longest; pauses are drawn evenly between the two.")
