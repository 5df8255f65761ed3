"""Tests that fail beside others are run again, alone: ``ci/alone.sh``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import failing

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[3] / "ci/alone.sh"
PASSES = "def test_good():\n    pass\n"
FAILS = "def test_bad():\n    assert False\n"
FAILS_ONCE = """
import pathlib
import pytest

@pytest.mark.parametrize("at", range({count}))
def test_now_and_then(at, request):
    mark = pathlib.Path(f"ran-{{at}}")
    if not mark.exists():
        mark.touch()
        pytest.fail("the first time")
"""


def called(folder: Path, **files: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of a small project as ``ci/test`` does."""
    (folder / "conftest.py").write_text(Path(failing.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(text, encoding="utf-8")
    said = 'say() { echo "$*" >&2; }'
    command = f'set -eu; {said}; PY="{sys.executable}"; . "{SCRIPT}"; beside -n 2 -p no:cacheprovider; say went on'
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_") and name != failing.VARIABLE}
    return subprocess.run(["sh", "-c", command], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120)


def test_the_failures_of_these_runs_are_not_those_of_the_run_that_this_test_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = tmp_path / "outer"
    monkeypatch.setenv(failing.VARIABLE, str(outer))
    (tmp_path / "project").mkdir()
    assert called(tmp_path / "project", b=FAILS).returncode
    assert not outer.exists()


def test_tests_that_pass_are_run_once(tmp_path: Path) -> None:
    done = called(tmp_path, a=PASSES)
    assert done.returncode == 0, done.stdout
    assert done.stderr.split() == ["went", "on"]


def test_a_test_that_passes_alone_is_named_at_the_end(tmp_path: Path) -> None:
    done = called(tmp_path, a=PASSES, b=FAILS_ONCE.format(count=2))
    assert done.returncode == 0, done.stdout
    last = done.stderr.splitlines()[-3:]
    assert "passed alone" in last[0]
    assert sorted(line.strip() for line in last[1:]) == [f"test_b.py::test_now_and_then[{at}]" for at in range(2)]
    assert "2 passed in" in done.stdout, "of three tests, only those that failed are run again"


@pytest.mark.parametrize("files", [{"a": PASSES, "b": FAILS}, {"b": FAILS_ONCE.format(count=6)}, {"b": "import nothing\n"}])
def test_others_fail(tmp_path: Path, files: dict[str, str]) -> None:
    """A test that fails alone, too many that fail, a file that cannot be read."""
    done = called(tmp_path, **files)
    assert done.returncode, done.stdout
    assert "went on" not in done.stderr
    assert "passed alone" not in done.stderr
