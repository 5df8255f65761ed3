"""Directory for state and caches."""

from __future__ import annotations

import os
from pathlib import Path

KERNELS = "torchinductor"
"""Folder in it with the kernels that torch compiles in servers that run from images."""
LAUNCHERS = "launchers"
"""Folder in it with the programs that start Python in the files of images."""


def home() -> Path:
    """``VLLM_CI_HOME``, by default ``vllm-ci`` in the user's cache folder (XDG Base Directory: ``$XDG_CACHE_HOME``)."""
    if named := os.environ.get("VLLM_CI_HOME"):
        return Path(named).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache and Path(cache).is_absolute() else Path.home() / ".cache") / "vllm-ci"
