"""Byte code of the module: made when Dagger's runtime installs it, and at no other time."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_ci.images import uv

ROOT = Path(__file__).parents[3]
FILES = ("pyproject.toml", "hatch_build.py", "requirements.lock", "LICENSE", "pipeline/README.md")
UNCHECKED_HASH = 1

pytestmark = [pytest.mark.needs_index, pytest.mark.slow]


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A small module with our build configuration, and the SDK where the runtime puts it."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("pipeline/vllm_ci/__init__.py", "pipeline/vllm_ci/module/main.py", "sdk/src/dagger/gen.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('__version__ = "1"\n')
    (tmp_path / "images").mkdir()
    return tmp_path


def installed(module: Path, **variables: str) -> list[Path]:
    """Install it in place, as the runtime does; the byte code beside its sources."""
    environment = {name: value for name, value in os.environ.items() if name != "DAGGER_MODULE"} | variables
    for command in (
        ["venv", "--quiet", "--no-project", "--python", sys.executable, "env"],
        ["pip", "install", "--quiet", "--python", "env/bin/python", "--no-deps", "-e", "."],
    ):
        done = subprocess.run(
            [uv.program(), *command], cwd=module, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stderr
    return [path for folder in ("pipeline", "sdk") for path in (module / folder).rglob("*.pyc")]


def test_dagger_installs_module_and_sdk_with_byte_code_that_is_not_checked(module: Path) -> None:
    found = installed(module, DAGGER_MODULE="vllm-ci")
    sources = sorted([*module.glob("pipeline/vllm_ci/**/*.py"), *module.glob("sdk/**/*.py")])
    assert sorted(found) == sorted(Path(importlib.util.cache_from_source(str(path))) for path in sources)
    for path in found:
        assert int.from_bytes(path.read_bytes()[4:8], "little") == UNCHECKED_HASH, "no stat of the source on each import"


def test_developers_get_none(module: Path) -> None:
    """It is not checked against the source: a change would have no effect."""
    assert installed(module) == []
