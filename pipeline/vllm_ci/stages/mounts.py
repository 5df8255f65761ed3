"""What is mounted beside an image's own files so that pytest can run in there: nothing is installed into the image."""

from __future__ import annotations

import shutil
import sys
from importlib import metadata
from pathlib import Path

import vllm_ci

# Pure Python, and all that pytest needs from Python 3.11 on; pygments colours tracebacks.
_DISTRIBUTIONS = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
# Ours that work with the standard library and pytest alone.
_OURS = (
    "__init__.py",
    "suites/__init__.py",
    "suites/verdicts.py",
    "suites/stash.py",
    "suites/reporter.py",
    "suites/deselected.py",
    "suites/image.py",
    "suites/inside.py",
    "suites/unit",
)
_START = '''\
"""Start pytest inside an image: what the image holds comes first on the path, what is mounted comes last."""
import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
arguments = sys.argv[1:]
if arguments and arguments[0].startswith("--also="):
    sys.path.append(arguments.pop(0)[len("--also="):])
sys.path.append(os.path.join(here, "lib"))

import pytest

sys.exit(pytest.main(arguments))
'''


def gather(into: Path) -> Path:
    """Lay out ``start.py`` and ``lib/`` (pytest with what it needs, and our parts) in a folder, and return it.

    The content depends only on the versions installed with this tool, so it can be kept for as long as they stay.
    """
    library = into / "lib"
    for name in _DISTRIBUTIONS:
        _install(metadata.distribution(name), library)
    ours = Path(vllm_ci.__file__).parent
    for name in _OURS:
        _copy(ours / name, library / "vllm_ci" / name)
    (into / "start.py").write_text(_START, encoding="utf-8")
    return into


def _install(distribution: metadata.Distribution, library: Path) -> None:
    """Copy what a distribution installed, its metadata too (pluggy asks for its own version there), but no scripts."""
    for file in distribution.files or ():
        if ".." not in file.parts and "__pycache__" not in file.parts:
            _copy(Path(str(file.locate())), library / file)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"), dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    gather(Path(sys.argv[1]))
