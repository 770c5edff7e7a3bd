"""How much is let in? `admission`."""

from pydantic import Field

from router.settings.section import Seconds, Section


class Admission(Section):
    """How much is let in."""

    decode_permits: int = Field(
        256, ge=0, description="Requests per decode or aggregated engine; vLLM's max_num_seqs; 0: no limit."
    )
    prefill_permits: int = Field(
        64, ge=0, description="Short prompts per prefill engine; more only wait inside it; 0: no limit."
    )
    prefill_permit_tokens: int = Field(
        2048,
        ge=1,
        description="Prompt tokens that one prefill permit is for; a longer prompt takes several, at most all of them.",
    )
    queue_size: int = Field(
        1024, ge=0, description="Requests of one model that may wait for a pool; 0: none, over capacity is 503 at once."
    )
    queue_timeout_s: Seconds = Field(10, description="Longest wait; who would wait longer is told 503 at once.")
