"""ci/bootstrap.sh: one environment for each interpreter and lock, whole at every moment, never removed under a process."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

from vllm_ci.images import uv

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.needs_index, pytest.mark.slow]

# Holds the environment for as long as its input is open, and then imports something for the first time.
USE = (
    "import sys; print(sys.prefix, sys.base_prefix, sys.executable, flush=True); sys.stdin.read(); "
    "import iniconfig, vllm_ci; print(iniconfig.__file__)"
)
SCRIPT = f"""#!/bin/sh
set -eu
cd "$(dirname "$0")/.."
. ci/bootstrap.sh
environment run requirements.lock
exec "$PY" -c '{USE}'
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose lock holds one small distribution; uv is on the path."""
    folder = tmp_path / "checkout"
    (folder / "pipeline" / "vllm_ci").mkdir(parents=True)
    (folder / "pipeline" / "vllm_ci" / "__init__.py").touch()
    shutil.copytree(ROOT / "ci", folder / "ci")
    lock = re.search(r"^iniconfig==[^\n]*(\n    --hash[^\n]*)+", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert lock
    # As long as our own: a file of this length is no argument for a program (128 KiB is the most on Linux).
    (folder / "requirements.lock").write_text(lock[0] + "\n" + "# a comment as long as a hash and more\n" * 8000)
    (folder / "ci" / "use").write_text(SCRIPT)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "uv").symlink_to(uv.program())
    return folder


def interpreter(folder: Path) -> Path:
    """Another interpreter, as pyenv or another shell would find it."""
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python3"


def start(checkout: Path, python: Path, shell: str = "sh", script: str = "use") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [shell, f"ci/{script}"],
        cwd=checkout,
        env={**os.environ, "PYTHON": str(python), "PATH": f"{checkout.parent}/bin:{os.environ['PATH']}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> str:
    """Close its input; what it printed."""
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    return stdout


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return line


def environments(checkout: Path) -> list[Path]:
    return sorted(path for path in (checkout / ".tools" / "envs").iterdir() if path.is_dir())


def old(folder: Path) -> None:
    os.utime(folder, (time.time() - 90000,) * 2)


@pytest.mark.parametrize("shell", [shell for shell in ("sh", "dash", "bash") if shutil.which(shell)])
def test_two_interpreters_at_once_have_an_environment_each(checkout: Path, tmp_path: Path, shell: str) -> None:
    pythons = [interpreter(tmp_path / name) for name in ("one", "two")]
    running = [start(checkout, python, shell) for python in pythons]
    lines = [first_line(process) for process in running]
    # In turns, while both are in the middle of something: the link changes, what they run stays.
    for python in (*pythons, *pythons):
        end(start(checkout, python, shell))
    assert len(environments(checkout)) == 2
    for process, line in zip(running, lines, strict=True):
        prefix = line.split()[0]
        assert f"{prefix}/lib" in end(process)
    assert {Path(line.split()[0]).name for line in lines} == {path.name for path in environments(checkout)}


def test_calls_of_one_interpreter_make_its_environment_once(checkout: Path, tmp_path: Path) -> None:
    python = interpreter(tmp_path / "one")
    running = [start(checkout, python) for _ in range(4)]
    said = []
    for process in running:
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        assert "iniconfig" in stdout
        said.append(stderr)
    assert sum(text.count("making ") for text in said) == 1, said
    assert len(environments(checkout)) == 1
    kept = environments(checkout)[0].stat().st_ino
    end(start(checkout, python))
    assert environments(checkout)[0].stat().st_ino == kept


def test_a_call_that_is_killed_leaves_nothing_that_is_taken_for_whole(checkout: Path, tmp_path: Path) -> None:
    python = interpreter(tmp_path / "one")
    # A uv that stops in the middle of filling the environment.
    real = uv.program()
    wrapper = checkout.parent / "bin" / "uv"
    wrapper.unlink()
    wrapper.write_text(f'#!/bin/sh\n[ "$1" != pip ] || {{ touch {tmp_path}/filling; sleep 600; }}\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    process = start(checkout, python)
    deadline = time.monotonic() + 60
    while not (tmp_path / "filling").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (checkout / ".tools" / "run").exists()
    wrapper.unlink()
    wrapper.symlink_to(real)
    assert "iniconfig" in end(start(checkout, python))
    assert [path.suffix for path in environments(checkout)] == [""]


def test_the_old_paths_lead_to_the_current_environment(checkout: Path, tmp_path: Path) -> None:
    """Scripts and documents name .tools/run/bin/python; what an older version made there is put aside, not removed."""
    before = checkout / ".tools" / "run" / "bin"
    before.mkdir(parents=True)
    (before / "python").write_text("old")
    line = end(start(checkout, interpreter(tmp_path / "one"))).splitlines()[0]
    link = checkout / ".tools" / "run"
    done = subprocess.run(
        [link / "bin" / "python", "-c", "import iniconfig, sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).resolve() == Path(line.split()[0])
    assert [path.name.partition(".")[0] for path in environments(checkout)].count("run-before") == 1


def test_the_clean_up_takes_what_nobody_has_used_for_a_day_and_nothing_that_is_in_use(checkout: Path, tmp_path: Path) -> None:
    one, two = (interpreter(tmp_path / name) for name in ("one", "two"))
    used = start(checkout, one)
    prefix = Path(first_line(used).split()[0])
    old(prefix)
    end(start(checkout, two))
    assert prefix.is_dir(), "removed while a process runs it"
    assert "iniconfig" in end(used)
    old(prefix)
    end(start(checkout, two))
    assert not prefix.exists()


def test_the_lock_is_held_by_the_program_that_the_script_becomes(checkout: Path, tmp_path: Path) -> None:
    used = start(checkout, interpreter(tmp_path / "one"))
    prefix = Path(first_line(used).split()[0])
    with Path(f"{prefix}.lock").open("a", encoding="utf-8") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        end(used)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_changed_lock_is_another_environment(checkout: Path, tmp_path: Path) -> None:
    python = interpreter(tmp_path / "one")
    end(start(checkout, python))
    lock = checkout / "requirements.lock"
    lock.write_text(lock.read_text() + "# changed\n")
    end(start(checkout, python))
    assert len(environments(checkout)) == 2
    assert sys.version_info >= (3, 11)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ([], ["run"]),
        (["--model", "smollm2", "--json"], ["run", "--model", "smollm2", "--json"]),
        (["serve", "--model", "smollm2"], ["serve", "--model", "smollm2"]),
        (["--help"], ["--help"]),
        (["--version"], ["--version"]),
    ],
    ids=["nothing", "options", "a command", "help", "version"],
)
def test_options_of_the_main_job_need_no_command(checkout: Path, words: list[str], meant: list[str]) -> None:
    (checkout / "pipeline" / "vllm_ci" / "__main__.py").write_text("import sys; print(sys.argv[1:])\n")
    path = f"{checkout.parent}/bin:{os.environ['PATH']}"
    called = subprocess.run(
        ["sh", "ci/run", *words],
        cwd=checkout,
        env={**os.environ, "PYTHON": sys.executable, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert called.stdout == f"{meant}\n"


@pytest.mark.parametrize("program", ["ci/vllm-ci", "ci/run", ".tools/run/bin/vllm-ci"])
def test_modules_of_the_project_in_which_it_is_called_are_not_run(checkout: Path, tmp_path: Path, program: str) -> None:
    """A release has its secrets in this process, and the project is what somebody committed."""
    (checkout / "pipeline" / "vllm_ci" / "__main__.py").write_text(
        "import sys, iniconfig; print(iniconfig.__name__, sys.argv[1:])\n"
    )
    end(start(checkout, Path(sys.executable)))
    project = tmp_path / "project"
    project.mkdir()
    for folder in (project, checkout):
        for name in ("iniconfig", "vllm_ci", "types"):
            (folder / f"{name}.py").write_text("raise SystemExit('code of the project runs')\n")
    path = f"{checkout.parent}/bin:{os.environ['PATH']}"
    env = {**os.environ, "PYTHON": sys.executable, "PATH": path}
    called = subprocess.run(
        [checkout / program, "--version"], cwd=project, env=env, capture_output=True, text=True, check=False
    )
    assert called.stdout == "iniconfig ['--version']\n", called.stderr
