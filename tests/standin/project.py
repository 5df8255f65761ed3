"""A user's project for the stand-in, and its command line as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).parents[1]
_CONFIG = """
version: 1
server: {{api_key_env: STANDIN_KEY, ready_timeout_s: {ready_s}, stop_grace_s: 30}}
stages:
  unit: {{suite: false, paths: [inside]}}
  integration: {{suite: false, paths: [outside], timeout_s: {timeout_s}}}
  streaming: {{suite: false, paths: [outside/test_later.py]}}
  security: {{enabled: false}}
"""
_INSIDE = "def test_inside(): pass\n"
_OUTSIDE = """
import pathlib, time

def test_first(): pass
def test_second(note): note("server", {"version": "9.9"})
def test_slow():
    pathlib.Path(WAITING).touch()
    time.sleep(HOW_LONG)
def test_never(): pass
"""


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        assert self.stdout.startswith("{"), f"no JSON on standard output; standard error:\n{self.stderr[-4000:]}"
        found: dict[str, Any] = json.loads(self.stdout)
        return found

    @property
    def folder(self) -> Path:
        return Path(self.json["report_dir"])

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return found

    def stage(self, name: str) -> dict[str, Any]:
        (found,) = (stage for stage in self.report["stages"] if stage["name"] == name)
        return dict(found)


@dataclass(frozen=True, kw_only=True)
class Project:
    folder: Path
    home: Path

    @property
    def waiting(self) -> Path:
        """There while the slow test runs."""
        return self.folder.parent / "waiting"

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_CI_", "STANDIN_"))}
        path = os.pathsep.join((str(_TESTS.parent / "pipeline"), str(_TESTS)))
        own = {"VLLM_CI_HOME": str(self.home), "VLLM_CI_ENGINE": "host", "PYTHONPATH": path, "STANDIN_KEY": "standin-s3cret"}
        return {**kept, **own, **variables}

    def run(self, *arguments: str, **variables: str) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "standin.engine", *(arguments or ("run", "--json"))],
            cwd=self.folder,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
            stdin=subprocess.DEVNULL,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def started(self, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [sys.executable, "-m", "standin.engine", *(arguments or ("run", "--json"))],
            cwd=self.folder,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()


def project(tmp_path: Path, *, slow_s: float = 0.0, timeout_s: float = 120, ready_s: float = 60) -> Project:
    """A repository with a test inside the image and some beside the server, one of which takes ``slow_s`` seconds."""
    folder = tmp_path / "repository"
    made = Project(folder=folder, home=tmp_path / "home")
    outside = _OUTSIDE.replace("WAITING", repr(str(made.waiting))).replace("HOW_LONG", str(slow_s))
    files = {
        "vllm-ci.yaml": _CONFIG.format(timeout_s=timeout_s, ready_s=ready_s),
        "inside/test_inside.py": _INSIDE,
        "outside/test_api.py": outside,
        "outside/test_later.py": "def test_later(): pass\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
    for words in (("init", "--quiet", "--initial-branch=main"), ("add", "."), ("commit", "--quiet", "--message", "start")):
        subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)
    return made
