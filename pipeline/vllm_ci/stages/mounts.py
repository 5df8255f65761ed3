"""Files to mount into an image so that pytest can run inside it: nothing is installed into the image.

``programs/isolated_pytest.py`` explains how they are hidden from the code under test.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib import metadata
from pathlib import Path

import vllm_ci
from vllm_ci.programs import FOLDER as PROGRAMS

# Importable under their own names, since tests import them.
_SHOWN = ("pytest",)
# Pure Python, all that pytest needs on Python 3.11 and later; pygments colours tracebacks. Visible only to pytest.
_APART = ("pluggy", "iniconfig", "packaging", "pygments")
# pytest's replacement for a library that an image may contain.
_STAND_IN = "py.py"
# Modules of vllm-ci that need only the standard library and pytest.
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
    """Create ``start.py``, ``lib/`` (pytest and vllm-ci) and ``apart/`` (dependencies of pytest) in a directory; return it.

    The content depends only on the installed versions, so it can be cached until they change.
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
    """Copy the modules of a distribution, without metadata (which would be discovered) and scripts."""
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
