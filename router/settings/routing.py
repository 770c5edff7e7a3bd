"""Where do requests go? `routing`."""

from typing import Literal

from pydantic import Field

from router.settings.section import Section

Mode = Literal["auto", "local", "disaggregated"]
PolicyName = Literal["round_robin", "least_loaded", "power_of_two", "session", "prefix_aware"]


class Routing(Section):
    """When a request is disaggregated, and how an engine is picked."""

    mode: Mode = Field(
        "auto", description="`auto` applies the rule; `local` and `disaggregated` force one way where it is possible."
    )
    mode_share: float = Field(
        1.0, ge=0, le=1, description="Share of requests, drawn by their ids, that have `mode`; 1: there is one mode."
    )
    mode_otherwise: Mode = Field(
        "local", description="Mode of the other requests: what to compare with, as if there were no hand-overs."
    )
    rule: Literal["learnt", "thresholds"] = Field(
        "learnt",
        description="`learnt` goes by what hand-overs and prefills took, and by the thresholds until that is known; "
        "`thresholds` by those alone.",
    )
    stall_weight: float = Field(
        0.05,
        ge=0,
        description="A second for which a stream is held up, as seconds until a first token: with 10 to 20 streams a "
        "hand-over over a fast link is worth it.",
    )
    prefill_policy: PolicyName = Field(
        "prefix_aware", description="What an engine holds of a prompt against what it has to do; see routing.md."
    )
    decode_policy: PolicyName = Field(
        "prefix_aware", description="As prefill_policy, for decode and aggregated engines."
    )
    min_novel_tokens: int = Field(
        512,
        ge=0,
        description="Prompts with fewer tokens that decode has not cached stay there: handing over would cost more.",
    )
    min_novel_ratio: float = Field(
        0.3, ge=0, le=1, description="So do those of which a smaller part is new, up to max_local_tokens."
    )
    max_local_tokens: int = Field(
        2048, ge=1, description="So many new tokens are computed by prefill whatever their part: 55 ms of an H200."
    )
    min_concurrency: int = Field(
        10,
        ge=0,
        description="Below this many requests in flight nothing is stalled by local prefill, so it stays local.",
    )
    long_prompt_tokens: int = Field(
        8192, ge=1, description="Prompts this long are disaggregated even below min_concurrency."
    )
    local_prefill_budget_tokens: int = Field(
        8192,
        ge=0,
        description="Prompt tokens that a decode engine may compute at once in prefill's stead; more stall streams.",
    )
    prefill_tokens_per_s: int = Field(
        20_000, ge=1, description="What one prefill engine computes at its peak: turns tokens in line into seconds."
    )
    ttft_slack_s: float = Field(
        2, ge=0, description="Longest extra wait for an engine that holds the prompt's beginning, or had the session."
    )
    engine_cache_tokens: int = Field(
        400_000, ge=1, description="KV cache of an engine that does not tell its size: 8B in bf16 on 80 GB."
    )
    max_index_blocks: int = Field(
        1_000_000, ge=1, description="Blocks of about 64 tokens that the index keeps, over all engines; 150 MB at most."
    )
    on_prefill_unavailable: Literal["local_if_small", "local", "fail"] = Field(
        "local_if_small",
        description="Without a usable prefill engine: `local` lets decode compute every prompt, `local_if_small` those "
        "within local_prefill_budget_tokens, `fail` none; the others are answered with 503.",
    )
