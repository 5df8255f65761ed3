"""What a container of the tool sees of a checkout and of the builder's store."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vllm_ci.engines import dagger_look

pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    for command in (["init", "--quiet", "--initial-branch=main"], ["commit", "--quiet", "--allow-empty", "--message=one"]):
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
        subprocess.run(["git", *identity, *command], cwd=folder, check=True)
    return folder


def program(home: Path, *arguments: str) -> Any:
    """What it writes, run as a container of the tool runs it."""
    file = next(each for each in arguments if each.endswith(".json"))
    source = Path(dagger_look.__file__).parents[2]
    subprocess.run(
        [sys.executable, "-m", "vllm_ci.engines.dagger_look", *arguments],
        check=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(source), "VLLM_CI_HOME": str(home), "HOME": str(home)},
    )
    return json.loads(Path(file).read_text(encoding="utf-8"))


def test_the_commit_of_a_checkout_and_whether_it_is_dirty(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    clean = dagger_look.seen(program(tmp_path / "home", str(checkout), str(tmp_path / "seen.json")))
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True).stdout.strip()
    assert (clean.commit.sha, clean.commit.dirty, clean.changed) == (head, False, None)
    (checkout / "new.py").write_text("x = 1\n")
    dirty = dagger_look.seen(program(tmp_path / "home", str(checkout), str(tmp_path / "seen.json"), "."))
    assert dirty.commit.dirty
    assert dirty.changed is not None


def test_a_report_that_was_exported_into_the_checkout_does_not_make_it_dirty(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    report = checkout / "report"
    report.mkdir()
    (report / "report.json").write_text("{}")
    (report / ".gitignore").write_text("*\n")
    found = dagger_look.seen(program(tmp_path / "home", str(checkout), str(tmp_path / "seen.json")))
    assert not found.commit.dirty


def test_an_empty_store_is_seen(checkout: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "images").mkdir(parents=True)
    assert dagger_look.seen(program(home, str(checkout), str(tmp_path / "seen.json"))).empty
    (home / "images" / "index.json").write_text(json.dumps({"manifests": [{"digest": "sha256:1"}]}))
    assert not dagger_look.seen(program(home, str(checkout), str(tmp_path / "seen.json"))).empty
    measured = program(home, str(tmp_path / "volume.json"))
    assert (measured["images"], measured["bytes"]) == (1, (home / "images" / "index.json").stat().st_size)
    assert measured["free_bytes"] > 0


def test_changes_are_compared_with_the_branch_or_commit_that_the_caller_names(checkout: Path, tmp_path: Path) -> None:
    def git(*command: str) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
        return subprocess.run(
            ["git", *identity, *command], cwd=checkout, check=True, capture_output=True, text=True
        ).stdout.strip()

    def changed(*base: str) -> list[str]:
        found = dagger_look.seen(program(tmp_path / "home", str(checkout), str(tmp_path / "seen.json"), ".", *base)).changed
        assert found is not None
        assert not found.unknown
        return list(found.files)

    (tmp_path / "home").mkdir()
    for branch in ("release-1.2", "work"):
        git("checkout", "--quiet", "-b", branch)
        (checkout / f"{branch}.py").write_text("x = 1\n")
        git("add", ".")
        git("commit", "--quiet", "--message", branch)
    assert changed() == changed("") == changed("main") == ["release-1.2.py", "work.py"]
    assert changed("release-1.2") == changed(git("rev-parse", "release-1.2")) == ["work.py"]
