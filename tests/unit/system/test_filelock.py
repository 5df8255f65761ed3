from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vllm_ci.domain.errors import ConfigError
from vllm_ci.system import filelock
from vllm_ci.system.filelock import LockedError, hold, holders

# Adds 1 to a number in a file, under the lock, again and again; the lock file is deleted by its holder each time.
COUNT = """
import sys
from pathlib import Path
from vllm_ci.system.filelock import hold
place, times = Path(sys.argv[1]), int(sys.argv[2])
for _ in range(times):
    with hold(place / "lock"):
        number = int((place / "number").read_text(encoding="utf-8"))
        (place / "number").write_text(str(number + 1), encoding="utf-8")
        if sys.argv[3] == "unlink":
            (place / "lock").unlink()
"""
KEEP = """
import sys, time
from pathlib import Path
from vllm_ci.system.filelock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("unlink", ["unlink", ""])
def test_fifty_processes_at_once_never_hold_one_name_together(tmp_path: Path, unlink: str) -> None:
    (tmp_path / "number").write_text("0", encoding="utf-8")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, str(tmp_path), "10", unlink]) for _ in range(50)]
    assert [process.wait(250) for process in processes] == [0] * 50
    assert (tmp_path / "number").read_text(encoding="utf-8") == "500"


@pytest.mark.slow
def test_the_timeout_error_names_the_holders(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    process = subprocess.Popen([sys.executable, "-c", KEEP, str(lock)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match=rf"held by {process.pid} \(") as caught, hold(lock, timeout_s=0.2):
            pytest.fail("two hold it")
        assert caught.value.exit_code == 3
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with hold(lock, timeout_s=0):  # the kernel let go
        assert holders(lock)[0].startswith(f"{os.getpid()} (")


def test_many_may_share_and_one_alone_waits_for_all(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with hold(lock, shared=True), hold(lock, shared=True, timeout_s=0), pytest.raises(LockedError), hold(lock, timeout_s=0):
        pytest.fail("not alone")
    with hold(lock, timeout_s=0), pytest.raises(LockedError), hold(lock, shared=True, timeout_s=0):
        pytest.fail("not alone")


@pytest.mark.slow
def test_a_lock_whose_file_was_deleted_meanwhile_is_taken_on_the_new_file(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    order: list[str] = []

    def second() -> None:
        with hold(lock):
            order.append("second")
            assert lock.exists()

    with hold(lock):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.2)
        lock.unlink()
        order.append("first")
    waiting.join(20)
    assert order == ["first", "second"]


def test_the_timeout_is_set_by_a_variable_and_an_invalid_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(filelock.TIMEOUT_VARIABLE, "0.1")
    with hold(tmp_path / "lock"), pytest.raises(LockedError, match=r"0\.1 s"), hold(tmp_path / "lock"):
        pytest.fail("two hold it")
    monkeypatch.setenv(filelock.TIMEOUT_VARIABLE, "never")
    with pytest.raises(ConfigError, match=filelock.TIMEOUT_VARIABLE), hold(tmp_path / "lock"):
        pytest.fail("what is wrong was taken")
