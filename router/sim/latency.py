"""How long does a step of an engine take?

One step runs one token of every decoding sequence and a chunk of prompts (chunked prefill). Prefill is bound by
compute: linear in its tokens plus attention over what precedes them. Decode is bound by memory bandwidth: the weights
once per step, the KV cache once per sequence. So a step with a large chunk in it holds up every stream on the engine.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PrefillChunk:
    """`tokens` of a prompt computed in one step, after `context` tokens that are there already."""

    tokens: int
    context: int


@dataclass(frozen=True)
class LatencyProfile:
    """Costs of one engine, in seconds."""

    decode_base_s: float
    decode_per_seq_s: float
    decode_per_kv_token_s: float
    prefill_base_s: float
    prefill_per_token_s: float
    prefill_per_token_pair_s: float

    def scaled(self, *, compute: float, bandwidth: float) -> "LatencyProfile":
        """The same model on a GPU with `compute` times the FLOPS and `bandwidth` times the memory bandwidth."""
        return LatencyProfile(
            decode_base_s=self.decode_base_s / bandwidth,
            decode_per_seq_s=self.decode_per_seq_s / bandwidth,
            decode_per_kv_token_s=self.decode_per_kv_token_s / bandwidth,
            prefill_base_s=self.prefill_base_s / compute,
            prefill_per_token_s=self.prefill_per_token_s / compute,
            prefill_per_token_pair_s=self.prefill_per_token_pair_s / compute,
        )

    def step_s(self, *, decode_seqs: int, decode_kv_tokens: int, chunks: list[PrefillChunk]) -> float:
        """Duration of one step over `decode_seqs` sequences holding `decode_kv_tokens` in all, and prompt chunks."""
        decode_s = self.decode_base_s + self.decode_per_seq_s * decode_seqs
        decode_s += self.decode_per_kv_token_s * decode_kv_tokens
        return decode_s + self.chunks_s(chunks)

    def chunks_s(self, chunks: list[PrefillChunk]) -> float:
        """What prompt chunks add to the step that they are part of."""
        return self.prefill_base_s + sum(self._chunk_s(chunk) for chunk in chunks) if chunks else 0.0

    def prefill_s(self, tokens: int) -> float:
        """Duration of one lone prompt, in one chunk."""
        return self.step_s(decode_seqs=0, decode_kv_tokens=0, chunks=[PrefillChunk(tokens, 0)])

    def _chunk_s(self, chunk: PrefillChunk) -> float:
        pairs = chunk.tokens * (chunk.context + chunk.tokens / 2)
        return self.prefill_per_token_s * chunk.tokens + self.prefill_per_token_pair_s * pairs


# Fitted to one H200 running vLLM 0.26 with the shape of Llama 8B in bf16. Prefill of 128, 512, 2048, 8192, 32000
# tokens: 13, 19, 55, 220, 1190 ms. Decode per token at 512 tokens of context with 1, 16, 64, 128 streams: 4.6, 4.9,
# 6.3, 8.5 ms; at 4096 tokens with 1, 16 streams: 4.7, 6.7 ms.
H200 = LatencyProfile(
    decode_base_s=4.55e-3,
    decode_per_seq_s=15e-6,
    decode_per_kv_token_s=31e-9,
    prefill_base_s=5.5e-3,
    prefill_per_token_s=22e-6,
    prefill_per_token_pair_s=9.2e-10,
)

# The others follow from the vendors' data sheets: dense FLOPS (bf16 989, A100 312; B200 by FP8 4500 over 1979) and
# memory bandwidth (TB/s: H200 4.8, H100 3.35, B200 7.7, A100 2.0).
PROFILES = {
    "h200": H200,
    "h100": H200.scaled(compute=1.0, bandwidth=3.35 / 4.8),
    "b200": H200.scaled(compute=4500 / 1979, bandwidth=7.7 / 4.8),
    "a100": H200.scaled(compute=312 / 989, bandwidth=2.0 / 4.8),
    "instant": LatencyProfile(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
}
