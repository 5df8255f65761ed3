"""Which branch or tag counts: every event of the providers, against real repositories."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from vllm_ci.ci import commits
from vllm_ci.domain.commit import Commit
from vllm_ci.system.vcs import git

MAIN, TAG = "refs/heads/main", "refs/tags/v1.0"
PERSON = ("-c", "user.name=p", "-c", "user.email=p@example.com")


@dataclass(frozen=True, kw_only=True)
class Clone:
    """A clone whose HEAD is detached at `head`: the tip of origin's main, or a commit of somebody else on top of it."""

    folder: Path
    main: str
    change: str

    def at(self, sha: str) -> Path:
        git("checkout", "--quiet", "--detach", sha, cwd=self.folder)
        return self.folder


@pytest.fixture(name="template", scope="module")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    tmp_path = tmp_path_factory.mktemp("template")
    origin, folder = tmp_path / "origin", tmp_path / "clone"
    origin.mkdir()
    git("init", "--quiet", "--initial-branch=main", cwd=origin)
    git(*PERSON, "commit", "--quiet", "--allow-empty", "--message=one", cwd=origin)
    git("tag", "v1.0", cwd=origin)
    git("clone", "--quiet", str(origin), str(folder), cwd=tmp_path)
    git("checkout", "--quiet", "--detach", cwd=folder)
    git(*PERSON, "commit", "--quiet", "--allow-empty", "--message=change", cwd=folder)
    main, change = (git("rev-parse", each, cwd=folder).decode().strip() for each in ("origin/main", "HEAD"))
    return Clone(folder=folder, main=main, change=change)


@pytest.fixture(name="clone")
def _clone(template: Clone, tmp_path: Path) -> Clone:
    shutil.copytree(template.folder, tmp_path / "clone")
    return replace(template, folder=tmp_path / "clone")


GITHUB = {"GITHUB_ACTIONS": "true", "CI": "true"}
GITLAB = {"GITLAB_CI": "true", "CI": "true"}
JENKINS = {"JENKINS_URL": "http://jenkins", "CI": "true"}


def hub(event: str, ref: str = MAIN, **more: str) -> dict[str, str]:
    return {**GITHUB, "GITHUB_EVENT_NAME": event, "GITHUB_REF": ref, "GITHUB_SHA": "{head}", **more}


def lab(source: str, **more: str) -> dict[str, str]:
    return {**GITLAB, "CI_PIPELINE_SOURCE": source, "CI_COMMIT_SHA": "{head}", "CI_COMMIT_REF_NAME": "main", **more}


# Event -> variables ({head}: the commit that is checked out, {main}: main's), ref and pull request that count.
EVENTS: dict[str, tuple[dict[str, str], str, str]] = {
    "GitHub push": (hub("push"), MAIN, ""),
    "GitHub push of a tag": (hub("push", TAG), TAG, ""),
    "GitHub push of a tag called main": (hub("push", "refs/tags/main"), "refs/tags/main", ""),
    "GitHub push, another commit checked out": (hub("push", GITHUB_SHA="{main}"), "", ""),
    "GitHub push to a merge queue": (hub("push", "refs/heads/gh-readonly-queue/main/pr-7-" + "a" * 40), "", "7"),
    "GitHub pull_request": (hub("pull_request", "refs/pull/7/merge", GITHUB_HEAD_REF="main"), "", "7"),
    "GitHub pull_request_target, head checked out": (
        hub("pull_request_target", GITHUB_SHA="{main}", GITHUB_HEAD_REF="main"), "", "unknown",
    ),
    "GitHub pull_request_target, base checked out": (hub("pull_request_target"), "", "unknown"),
    "GitHub pull_request_review": (hub("pull_request_review", "refs/pull/7/merge"), "", "7"),
    "GitHub workflow_run, head of a pull request checked out": (hub("workflow_run", GITHUB_SHA="{main}"), "", ""),
    "GitHub merge_group": (hub("merge_group", "refs/heads/gh-readonly-queue/main/pr-7-" + "a" * 40), "", "7"),
    "GitHub schedule": (hub("schedule"), MAIN, ""),
    "GitHub workflow_dispatch of a branch": (hub("workflow_dispatch", "refs/heads/topic"), "refs/heads/topic", ""),
    "GitHub repository_dispatch": (hub("repository_dispatch"), MAIN, ""),
    "GitHub workflow_call after a push": (hub("workflow_call"), MAIN, ""),
    "GitHub release": (hub("release", TAG), TAG, ""),
    "GitHub deployment of a branch": (hub("deployment"), MAIN, ""),
    "GitHub deployment of a commit": (hub("deployment", ""), "", ""),
    "GitHub deployment of a pull request": (hub("deployment", "refs/pull/7/head"), "", "7"),
    "GitHub event that is not known": (hub("something_new"), "", ""),
    "GitLab push": (lab("push", CI_COMMIT_BRANCH="main"), MAIN, ""),
    "GitLab push, another commit checked out": (lab("push", CI_COMMIT_BRANCH="main", CI_COMMIT_SHA="{main}"), "", ""),
    "GitLab tag": (lab("push", CI_COMMIT_TAG="v1.0"), TAG, ""),
    "GitLab tag called main": (lab("push", CI_COMMIT_TAG="main"), "refs/tags/main", ""),
    "GitLab merge request of a fork's main": (
        lab("merge_request_event", CI_MERGE_REQUEST_IID="7", CI_MERGE_REQUEST_SOURCE_PROJECT_PATH="eve/chat"), "", "7",
    ),
    "GitLab merge request without a number": (lab("merge_request_event"), "", "unknown"),
    "GitLab merged results": (
        lab("merge_request_event", CI_MERGE_REQUEST_IID="7", CI_MERGE_REQUEST_EVENT_TYPE="merged_result"), "", "7",
    ),
    "GitLab merge train": (
        lab("merge_request_event", CI_MERGE_REQUEST_IID="7", CI_MERGE_REQUEST_EVENT_TYPE="merge_train"), "", "7",
    ),
    "GitLab child pipeline of a merge request": (lab("parent_pipeline", CI_MERGE_REQUEST_IID="7"), "", "7"),
    "GitLab child pipeline of a branch": (lab("parent_pipeline", CI_COMMIT_BRANCH="main"), MAIN, ""),
    "GitLab pipeline of another project": (lab("pipeline", CI_COMMIT_BRANCH="main"), MAIN, ""),
    "GitLab trigger": (lab("trigger", CI_COMMIT_BRANCH="main"), MAIN, ""),
    "GitLab schedule": (lab("schedule", CI_COMMIT_BRANCH="main"), MAIN, ""),
    "GitLab web": (lab("web", CI_COMMIT_BRANCH="main"), MAIN, ""),
    "GitLab external pull request": (
        lab("external_pull_request_event", CI_EXTERNAL_PULL_REQUEST_IID="7", CI_COMMIT_BRANCH="main"), "", "7",
    ),
    "GitLab source that is not known": (lab("something_new", CI_COMMIT_BRANCH="main"), "", ""),
    "GitLab without the kind of ref": (lab("push"), "", ""),
    "Jenkins branch": ({**JENKINS, "BRANCH_NAME": "main", "GIT_COMMIT": "{head}"}, MAIN, ""),
    "Jenkins branch, another commit checked out": ({**JENKINS, "BRANCH_NAME": "main", "GIT_COMMIT": "{main}"}, "", ""),
    "Jenkins branch without a commit": ({**JENKINS, "BRANCH_NAME": "main"}, "", ""),
    "Jenkins pull request": ({**JENKINS, "BRANCH_NAME": "PR-7", "CHANGE_ID": "7", "GIT_COMMIT": "{head}"}, "", "7"),
    "Jenkins pull request of a fork": (
        {**JENKINS, "BRANCH_NAME": "main", "CHANGE_FORK": "eve", "GIT_COMMIT": "{head}"}, "", "unknown",
    ),
    "Jenkins tag": ({**JENKINS, "BRANCH_NAME": "v1.0", "TAG_NAME": "v1.0", "GIT_COMMIT": "{head}"}, TAG, ""),
    "another CI": ({"CI": "true"}, "", ""),
    "another CI that says it is a pull request": ({"CI": "true", "VLLM_CI_PULL_REQUEST": "7"}, "", "7"),
    "Azure Pipelines pull request": ({"TF_BUILD": "True", "SYSTEM_PULLREQUEST_PULLREQUESTID": "7"}, "", "7"),
    "Buildkite branch": ({"CI": "true", "BUILDKITE_PULL_REQUEST": "false"}, "", ""),
    "Buildkite pull request": ({"CI": "true", "BUILDKITE_PULL_REQUEST": "7"}, "", "7"),
    "CircleCI pull request": ({"CI": "true", "CIRCLE_PULL_REQUEST": "https://github.com/a/b/pull/7"}, "", "7"),
    "CircleCI pull request of a fork, without its URL": ({"CI": "true", "CIRCLECI": "true", "CIRCLE_PR_NUMBER": "7"}, "", "7"),
    "Bitbucket pull request": ({"CI": "true", "BITBUCKET_PR_ID": "7"}, "", "7"),
    "no CI, detached": ({}, "", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", EVENTS)
def test_what_each_event_may_say(name: str, clone: Clone) -> None:
    """HEAD is a commit that no branch of origin has: what counts is the provider's word alone."""
    variables, ref, number = EVENTS[name]
    env = {key: value.format(head=clone.change, main=clone.main) for key, value in variables.items()}
    commit = commits.discover(clone.at(clone.change), env=env)
    assert (commit.ref, commit.pull_request) == (ref, number)


def stated(
    clone: Clone, name: str, sha: str, *, note: Callable[[str], None] = lambda _: None, env: Mapping[str, str]
) -> Commit:
    return commits.discover(clone.at(sha), env={**env, "VLLM_CI_REF": name}, note=note)


@pytest.mark.parametrize("env", [{}, {"CI": "true"}, {**GITHUB, "GITHUB_EVENT_NAME": "something_new"}])
@pytest.mark.parametrize(
    ("name", "ref"), [("main", MAIN), (MAIN, MAIN), ("v1.0", TAG), (TAG, TAG), ("topic", ""), ("refs/pull/7/head", "")]
)
def test_a_stated_ref_counts_where_git_confirms_it(clone: Clone, env: dict[str, str], name: str, ref: str) -> None:
    assert stated(clone, name, clone.main, env=env).ref == ref


def test_a_stated_ref_that_git_does_not_confirm_is_ignored_and_said(clone: Clone) -> None:
    notes: list[str] = []
    assert stated(clone, "main", clone.change, note=notes.append, env={"CI": "true"}).ref == ""
    [note] = notes
    assert "ignoring VLLM_CI_REF=main" in note


def test_no_statement_makes_a_pull_request_a_branch(clone: Clone) -> None:
    for env in (hub("pull_request", "refs/pull/7/merge"), lab("merge_request_event", CI_MERGE_REQUEST_IID="7")):
        notes: list[str] = []
        commit = stated(clone, "main", clone.main, note=notes.append, env=env)
        assert (commit.ref, commit.pull_request) == ("", "7")
        assert "this run is for pull request 7" in notes[0]


def test_a_local_branch_counts_on_a_machine_of_one_s_own_and_in_no_ci(clone: Clone) -> None:
    git("checkout", "--quiet", "-B", "main", clone.change, cwd=clone.folder)
    assert commits.discover(clone.folder, env={}).ref == MAIN
    assert commits.discover(clone.folder, env={"VLLM_CI_REF": "main"}).ref == MAIN
    assert commits.discover(clone.folder, env={"CI": "true"}).ref == ""
    assert commits.discover(clone.folder, env={"CI": "true", "VLLM_CI_REF": "main"}).ref == ""
    assert commits.discover(clone.folder, env={**hub("pull_request_target"), "GITHUB_SHA": clone.main}).ref == ""
    git("checkout", "--quiet", "-B", "main", clone.main, cwd=clone.folder)
    assert commits.discover(clone.folder, env={"CI": "true"}).ref == MAIN, "origin has the same commit there"


def test_a_branch_of_another_remote_is_not_origin_s(clone: Clone) -> None:
    git("update-ref", "refs/remotes/eve/main", clone.change, cwd=clone.folder)
    assert stated(clone, "main", clone.change, env={"CI": "true"}).ref == ""


def test_a_payload_s_number_is_kept(clone: Clone, tmp_path: Path) -> None:
    (tmp_path / "event.json").write_text(json.dumps({"number": 12, "pull_request": {"number": 12}}))
    env = {**hub("pull_request_target"), "GITHUB_EVENT_PATH": str(tmp_path / "event.json")}
    assert commits.discover(clone.at(clone.change), env=env).pull_request == "12"


@pytest.mark.parametrize("character", ["\u2028", "\x85", "\u2029"])
def test_a_branch_whose_name_contains_that_of_a_tag_is_not_the_tag(clone: Clone, character: str) -> None:
    """Git allows characters in names that Python takes for the end of a line."""
    git("update-ref", f"refs/remotes/origin/x{character}refs/tags/v2.0", clone.change, cwd=clone.folder)
    assert stated(clone, "v2.0", clone.change, env={"CI": "true"}).ref == ""
