"""Python environments of the servers: made from the locks beside this file on first use, and kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_ci.images import uv
from vllm_ci.system.filelock import hold
from vllm_ci.system.home import home

HERE = Path(__file__).parent
LOCKS = HERE / "locks"
_VARIABLE = "VLLM_CI_SERVERS_HOME"
_MAKING_S = 3600.0
_FREE_BYTES = 6 << 30
_UNAVAILABLE = ("not found in the package registry", "no version of", "dns error", "client error", "Failed to fetch")


def folder() -> Path:
    """Directory of environments and models: ``VLLM_CI_SERVERS_HOME``, by default ``servers-test`` in ``VLLM_CI_HOME``."""
    named = os.environ.get(_VARIABLE)
    made = Path(named).absolute() if named else home() / "servers-test"
    made.mkdir(parents=True, exist_ok=True)
    return made


def environment(name: str, lock: Path | None = None) -> Path:
    """Directory of programs (``bin``) of an environment, made if it does not exist.

    The calling test is skipped where the packages cannot be had, and fails where they cannot be installed.

    Args:
        name: Name of the lock and of the directory.
        lock: Another place of the lock.
    """
    made = folder() / name
    if not (made / "ok").exists():
        with hold(folder() / f"{name}.lock", timeout_s=_MAKING_S):
            if not (made / "ok").exists():
                _make(made, lock or LOCKS / f"{name}.txt")
    return made / "bin"


def beside(name: str, python: Path) -> Path:
    """Directory of packages that an environment lacks, for ``PYTHONPATH``; made if it does not exist.

    Args:
        name: Name of the lock and of the directory.
        python: Interpreter of the environment.
    """
    made = folder() / name
    with hold(folder() / f"{name}.lock", timeout_s=_MAKING_S):
        if not (made / "ok").exists():
            shutil.rmtree(made, ignore_errors=True)
            given = ("--quiet", "--no-config", "--no-deps", "--python", str(python), "-r", str(LOCKS / f"{name}.txt"))
            _uv("pip", "install", *given, "--target", str(made))
            (made / "ok").touch()
    return made


def _make(made: Path, lock: Path) -> None:
    if shutil.disk_usage(made.parent).free < _FREE_BYTES:
        pytest.skip(f"less than {_FREE_BYTES >> 30} GiB are free in {made.parent}; {_VARIABLE} names another place")
    shutil.rmtree(made, ignore_errors=True)
    _uv("venv", "--quiet", "--no-project", "--python", sys.executable, str(made))
    _uv("pip", "install", "--quiet", "--no-config", "--no-deps", "--python", str(made / "bin" / "python"), "-r", str(lock))
    (made / "ok").touch()


def _uv(*arguments: str) -> None:
    # In the directory of the environments: the checkout's pyproject.toml has settings of uv that are not for these.
    ended = subprocess.run(
        [uv.program(), *arguments], cwd=folder(), capture_output=True, text=True, timeout=_MAKING_S, check=False
    )
    if ended.returncode and any(words in ended.stderr for words in _UNAVAILABLE):
        pytest.skip(f"the package index cannot serve it: {ended.stderr.strip()[-300:]}")
    assert not ended.returncode, f"uv {arguments[0]}: {ended.stderr[-3000:]}"
