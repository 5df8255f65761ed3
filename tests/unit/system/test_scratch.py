from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vllm_ci.system import scratch

HOLD = """
import sys, time
from vllm_ci.system import scratch
with scratch.folder("work-") as made:
    (made / "sub").mkdir()
    (made / "sub" / "file").write_bytes(b"x")
    (made / "sub").chmod(0o500)
    print(made, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def hold() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str], number: int) -> None:
    process.send_signal(number)
    process.wait(20)
    assert process.stdout is not None
    process.stdout.close()


def test_a_directory_is_gone_after_its_context_whatever_happened(home: Path) -> None:
    def fail() -> None:
        with scratch.folder("a-") as made:
            assert made.parent == home / "tmp"
            (made / "file").write_bytes(b"x")
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert [path.name for path in (home / "tmp").iterdir()] == [".sweep"]


def test_directories_of_killed_owners_are_deleted_and_those_of_living_ones_kept() -> None:
    dead, left = hold()
    living, kept = hold()
    end(dead, signal.SIGKILL)
    assert left.is_dir()
    with scratch.folder():
        assert not left.exists()
        assert kept.is_dir()
    end(living, signal.SIGKILL)


def test_a_directory_whose_owner_was_killed_before_it_took_the_lock_is_deleted(home: Path) -> None:
    (home / "tmp" / "half-made").mkdir(parents=True)
    with scratch.folder():
        assert not (home / "tmp" / "half-made").exists()


def test_the_temporary_directory_of_the_system_is_used_when_the_home_is_not_writable(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write_bytes(b"a file")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch.folder() as made:
        assert made.is_relative_to(tmp_path)
        assert made.parent.stat().st_mode & 0o777 == 0o700
