from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vllm_ci import vcs
from vllm_ci.domain.errors import UsageError


def run(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    run(folder, "init", "--quiet", "--initial-branch=trunk")
    (folder / "file").write_text("one\n")
    run(folder, "add", ".")
    run(folder, "commit", "--quiet", "--message", "one")
    return folder


def test_head_is_found_with_its_branch_and_time(checkout: Path) -> None:
    commit = vcs.discover(checkout)
    assert commit.sha == run(checkout, "rev-parse", "HEAD")
    assert commit.ref == "refs/heads/trunk"
    assert commit.committed_at == int(run(checkout, "log", "-1", "--format=%ct"))
    assert not commit.dirty


@pytest.mark.parametrize("change", ["modified", "untracked", "staged"])
def test_any_change_makes_the_tree_dirty(checkout: Path, change: str) -> None:
    (checkout / ("new" if change == "untracked" else "file")).write_text("two\n")
    if change == "staged":
        run(checkout, "add", "file")
    assert vcs.discover(checkout).dirty


def test_ignored_files_do_not_make_it_dirty(checkout: Path) -> None:
    (checkout / ".gitignore").write_text("*.log\n")
    run(checkout, "add", ".gitignore")
    run(checkout, "commit", "--quiet", "--message", "ignore")
    (checkout / "run.log").write_text("noise\n")
    assert not vcs.discover(checkout).dirty


def test_another_revision_is_never_dirty(checkout: Path) -> None:
    first = run(checkout, "rev-parse", "HEAD")
    (checkout / "file").write_text("two\n")
    assert not vcs.discover(checkout, first).dirty


def test_a_detached_head_has_no_ref(checkout: Path) -> None:
    run(checkout, "checkout", "--quiet", "--detach")
    assert vcs.discover(checkout).ref == ""


def test_a_remote_is_told_without_its_password(checkout: Path) -> None:
    run(checkout, "remote", "add", "origin", "https://user:secret@git.example.com/team/repo.git")
    assert vcs.discover(checkout).source == "https://git.example.com/team/repo.git"
    run(checkout, "remote", "set-url", "origin", str(checkout))
    assert vcs.discover(checkout).source == ""


def test_a_folder_that_is_no_checkout_is_a_usage_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="git init"):
        vcs.root(tmp_path)


def test_an_empty_repository_has_no_commit(tmp_path: Path) -> None:
    run(tmp_path, "init", "--quiet")
    with pytest.raises(UsageError, match="no commit HEAD"):
        vcs.discover(tmp_path)


def test_variables_of_a_git_hook_do_not_lead_elsewhere(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = run(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert vcs.discover(checkout).sha == expected
