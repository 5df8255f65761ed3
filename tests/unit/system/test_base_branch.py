"""What a checkout changes since its base branch, with real repositories and a real server of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_ci.ci import base
from vllm_ci.domain.changes import Changes
from vllm_ci.system import base_branch, vcs
from vllm_ci.system.base_branch import BaseBranch, changes

pytestmark = pytest.mark.slow

Commits = Callable[..., str]


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder: Path, files: dict[str, str | None]) -> str:
    for name, text in files.items():
        if text is None:
            git(folder, "rm", "--quiet", name)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "x")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with a main branch of sixty commits, and a branch `topic` that left it twenty commits ago."""
    place = tmp_path / "origin"
    place.mkdir()
    git(place, "init", "--quiet", "--initial-branch=main")
    for number in range(40):
        commit(place, {"core/a.py": f"{number}", "docs/a.md": f"{number}", "moved/old.py": "the same\n" * 20})
    git(place, "checkout", "--quiet", "-b", "topic")
    commit(place, {"core/a.py": "changed"})
    git(place, "mv", "moved/old.py", "moved/new.py")
    commit(place, {"docs/a.md": None})
    git(place, "checkout", "--quiet", "main")
    for number in range(20):
        commit(place, {"core/b.py": f"{number}"})
    git(place, "config", "uploadpack.allowFilter", "true")
    return place


TOPIC = ("core/a.py", "docs/a.md", "moved/new.py", "moved/old.py")


def clone(origin: Path, *arguments: str, branch: str = "topic") -> Path:
    place = origin.parent / "clone"
    git(origin.parent, "clone", "--quiet", "--branch", branch, *arguments, f"file://{origin}", str(place))
    return place


def found(place: Path, base: BaseBranch | None = None, folder: str = "") -> Changes:
    return changes(place, vcs.discover(place), base or BaseBranch(), folder=folder)


def test_a_branch_is_compared_with_where_it_left_the_default_branch(origin: Path) -> None:
    place = clone(origin)
    assert found(place).files == TOPIC
    assert found(place).base.startswith("origin/HEAD (")
    git(place, "checkout", "--quiet", "--detach")
    assert found(place).files == TOPIC


@pytest.mark.parametrize("base", [BaseBranch(), BaseBranch(branch="main")])
def test_a_rename_counts_under_both_names_whatever_git_is_configured_to_find(
    origin: Path, base: BaseBranch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "diff.renames")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "copies")
    assert {"moved/old.py", "moved/new.py"} <= set(found(clone(origin), base).files)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_shallow_clone_of_the_branch_alone_is_deepened(origin: Path, depth: int) -> None:
    place = clone(origin, f"--depth={depth}", "--single-branch")
    assert found(place, BaseBranch(branch="main")).files == TOPIC


@pytest.mark.parametrize("depth", [1, 3, 30])
def test_the_merge_commit_that_a_provider_makes_of_a_pull_request_is_compared_with_its_base(origin: Path, depth: int) -> None:
    git(origin, "checkout", "--quiet", "--detach", "main")
    git(origin, "merge", "--quiet", "--no-ff", "--message", "merge", "topic")
    git(origin, "update-ref", "refs/pull/7/merge", "HEAD")
    git(origin, "checkout", "--quiet", "main")
    place = origin.parent / "checkout"
    place.mkdir()
    git(place, "init", "--quiet")
    git(place, "remote", "add", "origin", f"file://{origin}")
    git(place, "fetch", "--quiet", "--no-tags", f"--depth={depth}", "origin", "+refs/pull/7/merge:refs/remotes/pull/7/merge")
    git(place, "checkout", "--quiet", "refs/remotes/pull/7/merge")
    assert found(place, BaseBranch(branch="main")).files == TOPIC


def test_a_deep_clone_is_never_made_shallow_or_shallower(origin: Path) -> None:
    whole = clone(origin, "--single-branch")
    before = git(whole, "rev-list", "--count", "HEAD")
    assert found(whole, BaseBranch(branch="main")).files == TOPIC
    assert git(whole, "rev-list", "--count", "HEAD") == before
    assert git(whole, "rev-parse", "--is-shallow-repository") == "false"


def test_a_shallow_clone_with_a_commit_that_was_never_pushed_is_compared_all_the_same(origin: Path) -> None:
    place = clone(origin, "--depth=30", "--no-single-branch")
    commit(place, {"mine": "1"})
    git(place, "update-ref", "-d", "refs/remotes/origin/main")
    git(place, "remote", "set-head", "origin", "--delete")
    assert found(place, BaseBranch(branch="main")).files == tuple(sorted((*TOPIC, "mine")))


def test_a_partial_clone_is_compared(origin: Path) -> None:
    place = clone(origin, "--filter=blob:none")
    assert found(place).files == TOPIC


def test_a_shallow_clone_without_its_server_reports_unknown_changes(origin: Path) -> None:
    place = clone(origin, "--depth=1", "--single-branch")
    origin.rename(origin.with_name("gone"))
    said = found(place, BaseBranch(branch="main"))
    assert said.files == ()
    assert "git ls-remote" in said.unknown


def test_a_dirty_work_tree_counts_with_what_git_does_not_track_and_without_what_it_ignores(origin: Path) -> None:
    place = clone(origin, branch="main")
    commit(place, {".gitignore": "*.log\n"})
    git(place, "push", "--quiet", "origin", "HEAD:refs/heads/other")
    (place / "core/a.py").write_text("dirty", encoding="utf-8")
    (place / "new file é").write_text("new", encoding="utf-8")
    (place / "run.log").write_text("noise", encoding="utf-8")
    (place / "core/b.py").unlink()
    assert found(place).files == (".gitignore", "core/a.py", "core/b.py", "new file é")


def test_a_commit_of_the_base_branch_itself_is_compared_with_its_parent_or_what_was_pushed_before(origin: Path) -> None:
    start = git(origin, "rev-parse", "main")
    one = commit(origin, {"one": "1"})
    commit(origin, {"two": "2"})
    place = clone(origin, branch="main")
    assert found(place).files == ("two",)
    assert "the previous commit on" in found(place).base
    assert found(place, BaseBranch(branch="main", before=start)).files == ("one", "two")
    assert found(place, BaseBranch(branch="main", before=one)).files == ("two",)
    assert found(place, BaseBranch(branch="main", before="f" * 40)).files == ("two",)


def test_a_merge_on_the_base_branch_is_compared_with_its_first_parent(origin: Path) -> None:
    git(origin, "merge", "--quiet", "--no-ff", "--message", "merge", "topic")
    for place in (clone(origin, branch="main"),):
        assert found(place).files == TOPIC
    git(origin.parent, "clone", "--quiet", "--depth=1", f"file://{origin}", str(origin.parent / "shallow"))
    assert found(origin.parent / "shallow").files == TOPIC


def test_the_first_commit_changes_every_file(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    commit(tmp_path, {"a": "1", "b/c": "2"})
    assert found(tmp_path).files == ("a", "b/c")


def test_paths_are_relative_to_the_folder_of_the_configuration(origin: Path) -> None:
    assert found(clone(origin), folder="core").files == ("a.py", "../docs/a.md", "../moved/new.py", "../moved/old.py")


def test_a_branch_that_follows_its_own_copy_on_the_server_is_compared_with_the_default_branch(origin: Path) -> None:
    place = clone(origin)
    assert git(place, "rev-parse", "--abbrev-ref", "topic@{upstream}") == "origin/topic"
    assert found(place).files == TOPIC
    git(place, "checkout", "--quiet", "-b", "mine", "--track", "origin/topic")
    commit(place, {"mine": "1"})
    assert found(place).files == ("mine",)


def test_a_repository_without_a_base_branch_says_how_to_name_one(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch=trunk")
    first = commit(tmp_path, {"a": "1"})
    commit(tmp_path, {"b": "2"})
    assert "VLLM_CI_BASE" in found(tmp_path).unknown
    assert found(tmp_path, BaseBranch(sha=first)).files == ("b",)


def test_histories_that_have_nothing_in_common_cannot_be_compared(origin: Path) -> None:
    place = clone(origin)
    git(place, "checkout", "--quiet", "--orphan", "other")
    commit(place, {"z": "1"})
    assert "no common history" in found(place, BaseBranch(branch="main")).unknown


def test_a_base_that_does_not_exist_is_reported(origin: Path) -> None:
    assert "exists neither locally nor on origin" in found(clone(origin), BaseBranch(branch="nonsense")).unknown


def test_a_branch_whose_name_ends_like_the_base_s_is_not_the_base(origin: Path) -> None:
    git(origin, "branch", "release")
    git(origin, "branch", "evil/refs/heads/release", "topic")
    place = clone(origin, "--single-branch")
    assert found(place, BaseBranch(branch="release")).files == TOPIC


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\x0b"])
def test_the_name_of_an_author_cannot_name_a_parent(tmp_path: Path, character: str) -> None:
    place = tmp_path / "origin"
    place.mkdir()
    git(place, "init", "--quiet", "--initial-branch=main")
    commit(place, {"a": "1"})
    git(place, "commit", "--amend", "--quiet", "--no-edit", f"--author=Eve{character}parent {'a' * 40} <eve@example.com>")
    assert found(place, BaseBranch(branch="main")).files == ("a",)


def test_an_engine_finds_the_same_from_a_checkout_alone(origin: Path, tmp_path: Path) -> None:
    place = clone(origin)
    argv = [sys.executable, "-m", "vllm_ci.system.base_branch", str(place), "core", str(tmp_path / "out.json")]
    subprocess.run(argv, check=True)
    assert base_branch.of_mapping(json.loads((tmp_path / "out.json").read_bytes())) == found(place, folder="core")


ID, OTHER = "1" * 40, "2" * 40


@pytest.mark.parametrize(
    ("env", "event", "expected"),
    [
        ({}, {}, BaseBranch()),
        ({"VLLM_CI_BASE": "release-1"}, {}, BaseBranch(branch="release-1")),
        ({"VLLM_CI_BASE": ID, "GITHUB_ACTIONS": "true", "GITHUB_BASE_REF": "main"}, {}, BaseBranch(sha=ID)),
        ({"GITHUB_ACTIONS": "true", "GITHUB_BASE_REF": "main"}, {"before": ID}, BaseBranch(branch="main")),
        (
            {"GITHUB_ACTIONS": "true", "GITHUB_BASE_REF": ""},
            {"before": ID, "repository": {"default_branch": "trunk"}},
            BaseBranch(branch="trunk", before=ID),
        ),
        ({"GITHUB_ACTIONS": "true"}, {"before": "0" * 40}, BaseBranch()),
        (
            {"GITHUB_ACTIONS": "true"},
            {"merge_group": {"base_ref": "refs/heads/main", "base_sha": ID}},
            BaseBranch(branch="main", sha=ID),
        ),
        (
            {"GITLAB_CI": "true", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main", "CI_MERGE_REQUEST_DIFF_BASE_SHA": ID},
            {},
            BaseBranch(branch="main", sha=ID),
        ),
        (
            {"GITLAB_CI": "true", "CI_DEFAULT_BRANCH": "main", "CI_COMMIT_BEFORE_SHA": OTHER},
            {},
            BaseBranch(branch="main", before=OTHER),
        ),
        ({"JENKINS_URL": "http://x", "CHANGE_TARGET": "main"}, {}, BaseBranch(branch="main")),
        ({"CI": "true", "SYSTEM_PULLREQUEST_TARGETBRANCH": "refs/heads/main"}, {}, BaseBranch(branch="main")),
    ],
)
def test_the_base_is_read_from_the_variables_of_each_provider(
    env: dict[str, str], event: object, expected: BaseBranch, tmp_path: Path
) -> None:
    (tmp_path / "event.json").write_text(json.dumps(event), encoding="utf-8")
    assert base.base({**env, "GITHUB_EVENT_PATH": str(tmp_path / "event.json")}) == expected


@pytest.mark.parametrize("content", ["", "[]", "null", "{", '{"repository": 1, "merge_group": null, "before": 7}'])
def test_an_unexpected_event_names_no_base(content: str, tmp_path: Path) -> None:
    (tmp_path / "event.json").write_text(content, encoding="utf-8")
    env = {"GITHUB_ACTIONS": "true", "GITHUB_EVENT_PATH": str(tmp_path / "event.json")}
    assert base.base(env) == BaseBranch()
