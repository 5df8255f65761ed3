"""What is mounted beside an image's own files so that pytest can run in there: nothing is installed into the image.

``programs/isolated_pytest.py`` says how it is kept out of sight of the code under test.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib import metadata
from pathlib import Path

import vllm_ci
from vllm_ci.programs import FOLDER as PROGRAMS

# Served under their own names, as tests import them.
_SHOWN = ("pytest",)
# Pure Python, and all that pytest needs from Python 3.11 on; pygments colours tracebacks. Seen by pytest alone.
_APART = ("pluggy", "iniconfig", "packaging", "pygments")
# pytest's stand-in for a library that an image may have.
_STAND_IN = "py.py"
# Ours that work with the standard library and pytest alone.
_OURS = (
    "__init__.py",
    "suites/__init__.py",
    "suites/verdicts.py",
    "suites/plugins/__init__.py",
    "suites/plugins/stash.py",
    "suites/plugins/reporter.py",
    "suites/plugins/deselected.py",
    "suites/plugins/image.py",
    "suites/inside.py",
    "suites/unit",
)


def gather(into: Path) -> Path:
    """Lay out ``start.py``, ``lib/`` (pytest and our parts) and ``apart/`` (what pytest needs) in a folder, and return it.

    The content depends only on the versions installed with this tool, so it can be kept for as long as they stay.
    """
    for names, library in ((_SHOWN, into / "lib"), (_APART, into / "apart")):
        for name in names:
            _install(metadata.distribution(name), library)
    ours = Path(vllm_ci.__file__).parent
    for name in _OURS:
        _copy(ours / name, into / "lib" / "vllm_ci" / name)
    _copy(PROGRAMS / "isolated_pytest.py", into / "start.py")
    (into / "lib" / _STAND_IN).replace(into / "apart" / _STAND_IN)
    versions = {name: metadata.version(name) for name in _APART} | {Path(_STAND_IN).stem: metadata.version("pytest")}
    (into / "versions.json").write_text(json.dumps(versions), encoding="utf-8")
    return into


def _install(distribution: metadata.Distribution, library: Path) -> None:
    """Copy the modules of a distribution: neither its metadata, which would be found, nor scripts."""
    for file in distribution.files or ():
        if not {"..", "__pycache__"} & {*file.parts} and not file.parts[0].endswith(".dist-info"):
            _copy(Path(str(file.locate())), library / file)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"), dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    gather(Path(sys.argv[1]))
