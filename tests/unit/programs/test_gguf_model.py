"""What the converter of GGUF files says of wheels that it cannot take; tests/servers has real conversions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imagery.wheels import write_wheel
from vllm_ci.programs import FOLDER as PROGRAMS
from vllm_ci.programs import gguf_model

# As SmolLM2-135M-Instruct says it of itself.
SMOLLM2: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 30,
    "llama.context_length": 8192,
    "llama.embedding_length": 576,
    "llama.feed_forward_length": 1536,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.rope.freq_base": 100000.0,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.vocab_size": 3,
    "llama.rope.dimension_count": 64,
    "tokenizer.ggml.add_space_prefix": False,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["a", "b", "c"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.padding_token_id": 2,
}


def test_a_model_that_is_known_is_taken() -> None:
    gguf_model.check(gguf_model.Facts(SMOLLM2))
    gguf_model.check(gguf_model.Facts({**SMOLLM2, "llama.attention.key_length": 64}))
    assert converted_as(gguf_model.Facts(SMOLLM2))["head_dim"] == 64


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"general.architecture": "qwen2"}, "general.architecture is qwen2, not llama"),
        ({"tokenizer.ggml.pre": "llama-bpe"}, "tokenizer.ggml.pre is llama-bpe, not smollm"),
        ({"llama.rope.scaling.type": "linear"}, "llama.rope.scaling.type is linear"),
        ({"llama.expert_count": 8}, "llama.expert_count is 8"),
        ({"llama.attention.key_length": 128}, "llama.attention.key_length is 128, not 64"),
        ({"llama.rope.dimension_count": 32}, "llama.rope.dimension_count is 32, not 64"),
        ({"llama.vocab_size": 4}, "llama.vocab_size is 4, not 3"),
        ({"tokenizer.ggml.add_bos_token": True}, "tokenizer.ggml.add_bos_token is True, not False"),
    ],
)
def test_what_a_file_says_and_the_checkpoint_would_not_is_refused_by_name(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(gguf_model.Unusable) as caught:
        gguf_model.check(gguf_model.Facts({**SMOLLM2, **changed}))
    assert said in str(caught.value)


def converted_as(facts: gguf_model.Facts) -> dict[str, Any]:
    gguf_model.check(facts)
    return gguf_model.config_of(facts, tied=True)


@pytest.mark.parametrize("name", ["llama.embedding_length", "llama.rope.freq_base", "tokenizer.ggml.padding_token_id"])
def test_what_a_file_does_not_say_is_refused_by_name(name: str) -> None:
    facts = gguf_model.Facts({key: value for key, value in SMOLLM2.items() if key != name})
    with pytest.raises(gguf_model.Unusable, match=f"the GGUF file does not say {name}"):
        converted_as(facts)


@pytest.mark.parametrize("tensor", ["weight", "rope_freqs.weight", "blk", "blk.0.attn_k_norm.weight"])
def test_a_tensor_that_no_llama_has_is_refused_by_name(tensor: str) -> None:
    with pytest.raises(gguf_model.Unusable, match=f"no Llama has: {tensor}"):
        gguf_model._name(tensor)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"speaks/__init__.py": b""}, "have to hold one GGUF file, and hold none: speaks-1.0-py3-none-any.whl"),
        ({"speaks/a.gguf": b"", "speaks/b.gguf": b""}, "and hold speaks/a.gguf, speaks/b.gguf: "),
    ],
    ids=["none", "two"],
)
def test_a_wheel_has_one_gguf_file(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    write_wheel(tmp_path / "wheels", "speaks", "1.0", files)
    command: list[str | Path] = [sys.executable, PROGRAMS / "gguf_model.py", tmp_path / "wheels", tmp_path / "out"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, said in ended.stderr) == (1, True), ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()
