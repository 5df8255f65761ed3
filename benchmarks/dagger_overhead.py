"""What a call of the Dagger module costs before it does anything, beside a call of an empty module.

    python benchmarks/dagger_overhead.py [ROUNDS]

Needs a Dagger engine. Both calls load a module, make its object and run one function that starts no container: ours is one that
reads the configuration and refuses a stage that is not there. They are made in turns; printed are the medians, in seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
EMPTY = '''"""An empty module."""

from dagger import function, object_type


@object_type
class Empty:
    """It does nothing."""

    @function(cache="never")
    async def nothing(self) -> str:
        """Nothing."""
        return ""
'''
PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "empty"
version = "0.1.0"

[project.entry-points."dagger.mod"]
main_object = "empty:Empty"

[tool.dagger]
base-image = "python:3.12-slim"
"""


def empty_module(folder: Path) -> Path:
    """A module with one function that does nothing."""
    (folder / "src" / "empty").mkdir(parents=True)
    (folder / "src" / "empty" / "__init__.py").write_text(EMPTY, encoding="utf-8")
    (folder / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    config = {"name": "empty", "engineVersion": "v0.21.6", "sdk": {"source": "python"}}
    (folder / "dagger.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def checkout(folder: Path) -> Path:
    """The quickstart as a repository of its own."""
    shutil.copytree(ROOT / "examples" / "quickstart", folder, ignore=shutil.ignore_patterns(".vllm-ci", "__pycache__"))
    identity = ("-c", "user.name=Benchmark", "-c", "user.email=benchmark@example.com")
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=one"]):
        subprocess.run(["git", *identity, *command], cwd=folder, check=True)
    return folder


def seconds(folder: Path, module: Path, *call: str, code: int) -> float:
    """Wall time of a call."""
    begun = time.monotonic()
    command = ["dagger", "--silent", "-m", str(module), "call", *call]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"DO_NOT_TRACK": "1"}, capture_output=True, check=False)
    if done.returncode != code:
        sys.exit(f"{command} ended with {done.returncode}:\n{done.stderr.decode()}")
    return time.monotonic() - begun


def main(rounds: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        empty, project = empty_module(Path(folder, "empty")), checkout(Path(folder, "project"))
        ours = ("--source=.", "run", "--stages=none", "verdict")
        times: dict[str, list[float]] = {"empty": [], "ours": []}
        for _ in range(rounds + 1):
            times["empty"].append(seconds(project, empty, "nothing", code=0))
            times["ours"].append(seconds(project, ROOT, *ours, code=2))
        medians = {name: statistics.median(each[1:]) for name, each in times.items()}  # the first round loads the modules
        print(json.dumps({**medians, "ratio": medians["ours"] / medians["empty"], "all": times}, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
