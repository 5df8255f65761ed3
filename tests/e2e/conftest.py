"""The real thing: the image of a commit, the real vLLM from its files, all stages."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from imagery.relock import Relocked, usable
from standin.project import Ended

ROOT = Path(__file__).parents[2]

Dagger = Callable[..., Ended]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("VLLM_CI_") or name == "VLLM_CI_HOME"}


def vllm_ci(folder: Path, *arguments: str, timeout_s: float = 1800) -> Ended:
    command = [sys.executable, "-m", "vllm_ci", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def noted(stage: dict[str, Any]) -> list[dict[str, Any]]:
    """What a stage has to say of its cases, other than that a slow machine had no time for some."""
    return [each for each in stage["failures"] if "left out for time" not in each["message"]]


@contextmanager
def started(folder: Path, log: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a process, ended at the latest with the context."""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm_ci", *arguments],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=file,
            stdin=subprocess.DEVNULL,
            text=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(120)
        assert process.stdout is not None
        process.stdout.close()


def until(condition: Callable[[], Any], what: str, timeout_s: float = 300) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not happen within {timeout_s:.0f} s"
        time.sleep(0.1)
    return found


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Image spec of the quickstart: the shipped one, or a copy with a new lock where mirrors have dropped its packages."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", Relocked)
        path = usable("cpu", tmp_path_factory.mktemp("spec"))
    for warning in said:
        print(warning.message)  # noqa: T201 - pytest shows it with whatever fails
    return "cpu" if path.is_relative_to(ROOT) else str(path)


@pytest.fixture
def project(tmp_path: Path, spec: str) -> Path:
    """The quickstart as a user's own repository, clean."""
    folder = tmp_path / "quickstart"
    shutil.copytree(ROOT / "examples" / "quickstart", folder, ignore=shutil.ignore_patterns(".vllm-ci", "__pycache__"))
    config = folder / "vllm-ci.yaml"
    config.write_text(config.read_text().replace("  spec: cpu\n", f"  spec: {spec}\n"))
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "quickstart")
    return folder


@pytest.fixture
def checkout(project: Path, spec: str) -> Path:
    """A user's repository with all that it names inside: a container sees nothing else."""
    if Path(spec).is_absolute():
        shutil.copytree(Path(spec).parent, project / "image")
        config = project / "vllm-ci.yaml"
        config.write_text(config.read_text().replace(spec, f"image/{Path(spec).name}"))
        git(project, "add", ".")
        git(project, "commit", "--quiet", "--message", "a lock that mirrors can serve")
    return project


@pytest.fixture
def dagger_engine() -> None:
    """One that Dagger's own variables name, and its command line."""
    if not any(os.environ.get(name) for name in ("_EXPERIMENTAL_DAGGER_RUNNER_HOST", "DAGGER_SESSION_PORT")):
        pytest.skip("no Dagger engine: neither _EXPERIMENTAL_DAGGER_RUNNER_HOST nor DAGGER_SESSION_PORT is set")
    if shutil.which("dagger") is None:
        pytest.skip("no program dagger on PATH")


@pytest.fixture
def dagger(checkout: Path, dagger_engine: None) -> Dagger:  # noqa: ARG001
    """Dagger's command line in the user's repository, with this module."""

    def run(*arguments: str, **variables: str) -> Ended:
        # In a script of the shell, paths are those of the module that -m names: there the script itself names it.
        module = [] if arguments[0] == "-c" else ["-m", str(ROOT)]
        return dagger_cli(checkout, *module, *arguments, **variables)

    return run


def dagger_cli(folder: Path, *arguments: str, **variables: str) -> Ended:
    """Dagger's command line."""
    done = subprocess.run(
        ["dagger", "--progress=plain", *arguments],
        cwd=folder,
        env=environment() | variables | {"DO_NOT_TRACK": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Ended(done.returncode, done.stdout, done.stderr)
