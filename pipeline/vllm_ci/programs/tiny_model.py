"""Generates a tiny Llama with random weights: the same bytes on every machine.

Usage: ``tiny_model.py OUT PARAMETERS_AS_JSON``. Needs the image's numpy, safetensors and tokenizers, but not torch. The
tokenizer is a byte-level BPE trained on the text below, so it can encode any input; weights are derived by SHAKE-256 from a
seed and the tensor's name, because no library guarantees the same random numbers in all versions.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ("<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|pad|>")

CORPUS = """\
A commit goes in and a tested image comes out. The server answers one question at a time, or many at once, and every answer
belongs to its question. What was tested is what is published, by digest. A stream is complete when it has a finish reason, a
usage record and the word done. When a release turns out badly, the one before it comes back, and it is checked again first.
The quick brown fox jumps over the lazy dog; 0 1 2 3 4 5 6 7 8 9 are digits, and {"json": [true, false, null]} has braces.
def answer(question: str) -> str: return question.strip().lower()
Grüße, café, naïve, 東京, мир, שלום, 🙂 and 🚀 are written with several bytes a letter.
user assistant system tool model token prompt temperature seed stop length name value string number object array
"""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% if tools %}{{ '<|system|>' + 'Tools: ' + (tools | tojson) + '<|end|>' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|' + (message['role'] if message['role'] in ('system', 'user', 'assistant', 'tool') else 'user') + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% elif message['content'] %}{% for part in message['content'] %}"
    "{{ part['text'] if part['type'] == 'text' else '' }}"
    "{% endfor %}"
    "{% endif %}"
    "{% if message.get('tool_calls') %}{{ message['tool_calls'] | tojson }}{% endif %}"
    "{{ '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def tokenizer(vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer of at most ``vocabulary`` entries, special tokens first."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(CORPUS.splitlines(keepends=True), trainer)
    return made


def noise(seed: int, name: str, shape: tuple[int, ...], scale: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Uniform numbers with standard deviation ``scale``, determined by ``seed`` and ``name``."""
    count = int(np.prod(shape))
    raw = hashlib.shake_256(f"{seed}:{name}".encode()).digest(2 * count)
    unit = np.frombuffer(raw, dtype="<u2").astype(np.float32) / np.float32(32768.0) - np.float32(1.0)
    return np.ascontiguousarray((unit * np.float32(scale * 3**0.5)).reshape(shape))


def weights(config: dict[str, Any], seed: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Tensors of a Llama of this configuration, by their name in a checkpoint."""
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "lm_head.weight": (config["vocab_size"], hidden),
    }
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        shapes |= {
            f"{layer}.self_attn.q_proj.weight": (queries, hidden),
            f"{layer}.self_attn.k_proj.weight": (keys, hidden),
            f"{layer}.self_attn.v_proj.weight": (keys, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, queries),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
        }
    tensors = {name: noise(seed, name, shape, shape[-1] ** -0.5) for name, shape in shapes.items()}
    norms = ["model.norm.weight"]
    for index in range(config["num_hidden_layers"]):
        norms += [f"model.layers.{index}.input_layernorm.weight", f"model.layers.{index}.post_attention_layernorm.weight"]
    return tensors | {name: np.ones((hidden,), np.float32) for name in norms}


# Layers whose weights are stored as integers: vLLM's Linear layers except lm_head.
_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
INT8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True},
            "output_activations": None,
        }
    },
}
_RANK = 8


def as_integers(tensors: dict[str, Any]) -> dict[str, Any]:
    """Weights of linear layers as 8-bit integers with one scale per row: compressed-tensors, W8A8."""
    stored: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if name.split(".")[-2] not in _LINEAR:
            stored[name] = tensor
            continue
        scale = np.abs(tensor).max(axis=1, keepdims=True) / np.float32(127.0)
        stored[name] = np.clip(np.rint(tensor / scale), -127, 127).astype(np.int8)
        stored[f"{name}_scale"] = scale.astype(np.float32)
    return stored


def adapter(out: Path, config: dict[str, Any], seed: int) -> None:
    """Write a LoRA adapter for the attention of every layer, in PEFT's format."""
    out.mkdir()
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "",
        "r": _RANK,
        "lora_alpha": 2 * _RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
    }
    (out / "adapter_config.json").write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    hidden, head = config["hidden_size"], config["head_dim"]
    rows = {"q_proj": config["num_attention_heads"] * head, "v_proj": config["num_key_value_heads"] * head}
    tensors = {}
    for index in range(config["num_hidden_layers"]):
        for module, width in rows.items():
            name = f"base_model.model.model.layers.{index}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = noise(seed, f"{name}.A", (_RANK, hidden), hidden**-0.5)
            tensors[f"{name}.lora_B.weight"] = noise(seed, f"{name}.B", (width, _RANK), _RANK**-0.5)
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})


def main(out: Path, parameters: dict[str, Any]) -> None:
    """Write a checkpoint in Hugging Face's format: config, tokenizer, weights in safetensors."""
    made = tokenizer(parameters["vocabulary"])
    begin, end, pad = (made.token_to_id(SPECIAL[index]) for index in (0, 1, 6))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": parameters["hidden_size"],
        "intermediate_size": 2 * parameters["hidden_size"],
        "num_hidden_layers": parameters["layers"],
        "num_attention_heads": parameters["heads"],
        "num_key_value_heads": parameters["kv_heads"],
        "head_dim": parameters["hidden_size"] // parameters["heads"],
        "vocab_size": made.get_vocab_size(),
        "max_position_embeddings": parameters["max_length"],
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": begin,
        "eos_token_id": end,
        "pad_token_id": pad,
    }
    if parameters["quantization"] == "int8":
        config["quantization_config"] = INT8
    texts: dict[str, dict[str, Any]] = {
        "config.json": config,
        "generation_config.json": {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": pad},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIAL[0],
            "eos_token": SPECIAL[1],
            "pad_token": SPECIAL[6],
            "model_max_length": parameters["max_length"],
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    }
    for name, content in texts.items():
        (out / name).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    made.save(str(out / "tokenizer.json"))
    tensors = weights(config, parameters["seed"])
    stored = as_integers(tensors) if parameters["quantization"] == "int8" else tensors
    save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
    if parameters["adapter"]:
        adapter(out / "adapter", config, parameters["seed"])
    for file in out.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)  # readable for any user that the server runs as


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
