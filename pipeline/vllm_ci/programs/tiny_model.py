"""Makes a tiny Llama with random weights: the same bytes wherever it runs.

Usage: ``tiny_model.py OUT PARAMETERS_AS_JSON``. Needs the image's numpy, safetensors and tokenizers, not torch. The
tokenizer is a byte-level BPE trained on the spot on the text below, so any input has tokens; weights come from SHAKE-256
of a seed and the tensor's name, because no library promises the same random numbers for ever.
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
    """Uniform numbers of standard deviation ``scale``, a function of ``seed`` and ``name`` alone."""
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


def main(out: Path, parameters: dict[str, Any]) -> None:
    """Write a checkpoint as Hugging Face lays it out: config, tokenizer, weights in safetensors."""
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
        (out / name).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    made.save(str(out / "tokenizer.json"))
    save_file(weights(config, parameters["seed"]), out / "model.safetensors", metadata={"format": "pt"})
    for file in out.iterdir():
        file.chmod(0o644)  # whoever the server runs as


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
