"""Processes that outlive their starter are found again, and no other is taken for them."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from vllm_ci.domain.errors import EngineError
from vllm_ci.engines import detached
from vllm_ci.system import filelock

SLEEPS = "import time; time.sleep(600)"
LOUD = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); time.sleep(600)"


def started(folder: Path, code: str = SLEEPS, *, keep: tuple[int, ...] = ()) -> detached.Identity:
    argv = detached.supervised([sys.executable, "-c", code], 1.0)
    return detached.start(argv, env={"PATH": "/usr/bin"}, cwd=folder, log=folder / "log", mark=str(folder), keep=keep)


def wait(condition: object, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.02)
    assert condition()  # type: ignore[operator]


@pytest.mark.slow
def test_it_goes_on_when_its_starter_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom vllm_ci.engines import detached\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"argv = detached.supervised([sys.executable, '-c', {SLEEPS!r}], 1.0)\n"
        "made = detached.start(argv, env={}, cwd=folder, log=folder / 'log', mark=str(folder))\n"
        "print(made.pid, made.started, made.boot, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    pid, began, boot = done.stdout.split()
    identity = detached.Identity(pid=int(pid), started=int(began), boot=boot)
    assert identity.alive
    identity.signal(signal.SIGTERM)
    wait(lambda: not detached.marked(str(tmp_path)))
    assert not identity.alive


def test_another_start_time_or_boot_is_another_process(tmp_path: Path) -> None:
    identity = started(tmp_path)
    assert identity.alive
    assert not replace(identity, started=identity.started + 1).alive
    assert not replace(identity, boot="other").alive
    replace(identity, started=identity.started + 1).signal(signal.SIGKILL)
    assert identity.alive
    detached.end_marked(str(tmp_path))
    assert not identity.alive


def test_sigterm_ends_it_with_everything_it_started(tmp_path: Path) -> None:
    identity = started(tmp_path, LOUD)
    wait(lambda: len(detached.marked(str(tmp_path))) == 3)
    identity.signal(signal.SIGTERM)
    wait(lambda: not detached.marked(str(tmp_path)))


def test_what_is_left_of_a_killed_supervisor_is_found_by_its_mark_and_ended(tmp_path: Path) -> None:
    identity = started(tmp_path, LOUD)
    wait(lambda: len(detached.marked(str(tmp_path))) == 3)
    assert detached.memory_bytes(str(tmp_path)) > 2**20
    identity.signal(signal.SIGKILL)
    wait(lambda: not identity.alive)
    assert len(detached.marked(str(tmp_path))) >= 2
    detached.end_marked(str(tmp_path))
    assert not detached.marked(str(tmp_path))


def test_a_lock_that_is_passed_on_is_held_until_it_ends(tmp_path: Path) -> None:
    handle = filelock.take(tmp_path / "lock", shared=True)
    identity = started(tmp_path, keep=(handle,))
    os.close(handle)
    with pytest.raises(filelock.LockedError), filelock.hold(tmp_path / "lock", timeout_s=0):
        pass
    identity.signal(signal.SIGTERM)
    with filelock.hold(tmp_path / "lock", timeout_s=15):
        pass


def test_it_may_open_as_many_files_as_the_system_allows(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        identity = started(tmp_path)
        limits = Path(f"/proc/{identity.pid}/limits").read_text(encoding="ascii")
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(soft, 1024)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    row = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    assert int(row.split()[3]) == min(hard, 2**20)
    detached.end_marked(str(tmp_path))


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot start /nowhere"):
        detached.start(["/nowhere"], env={}, cwd=tmp_path, log=tmp_path / "log", mark=str(tmp_path))
