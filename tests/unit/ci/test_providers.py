"""What is known of a run under each provider, with the variables that it documents, for pull requests and for pushes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vllm_ci.ci import current, run_facts
from vllm_ci.ci.run_facts import PullRequestFacts

HEAD, MERGE, MAIN = "1" * 40, "2" * 40, "3" * 40

GITHUB = {
    "CI": "true",
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "team/serving",
    "GITHUB_RUN_ID": "99",
}
GITLAB = {
    "CI": "true",
    "GITLAB_CI": "true",
    "CI_JOB_URL": "https://gitlab.example.com/team/serving/-/jobs/99",
    "CI_PIPELINE_SOURCE": "merge_request_event",
    "CI_MERGE_REQUEST_IID": "7",
    "CI_MERGE_REQUEST_PROJECT_ID": "1",
}
BUILDKITE = {
    "CI": "true",
    "BUILDKITE": "true",
    "BUILDKITE_BUILD_URL": "https://buildkite.com/team/serving/builds/99",
    "BUILDKITE_REPO": "git@github.com:team/serving.git",
    "BUILDKITE_COMMIT": HEAD,
    "BUILDKITE_BRANCH": "feature",
}
CIRCLECI = {
    "CI": "true",
    "CIRCLECI": "true",
    "CIRCLE_BUILD_URL": "https://circleci.com/gh/team/serving/99",
    "CIRCLE_SHA1": HEAD,
    "CIRCLE_BRANCH": "feature",
}
AZURE = {
    "TF_BUILD": "True",
    "SYSTEM_COLLECTIONURI": "https://dev.azure.com/team/",
    "SYSTEM_TEAMPROJECT": "serving",
    "BUILD_BUILDID": "99",
}
AZURE_REQUEST = {
    **AZURE,
    "BUILD_SOURCEBRANCH": "refs/pull/7/merge",
    "BUILD_SOURCEVERSION": MERGE,
    "SYSTEM_PULLREQUEST_PULLREQUESTID": "7",
    "SYSTEM_PULLREQUEST_SOURCECOMMITID": HEAD,
}
JENKINS = {
    "JENKINS_URL": "https://jenkins.example.com/",
    "BUILD_URL": "https://jenkins.example.com/job/serving/99/",
    "CHANGE_ID": "7",
}

# Name -> variables, pull request, URL of the run.
RUNS: dict[str, tuple[Mapping[str, str], PullRequestFacts, str]] = {
    "GitLab, from a fork": (
        {**GITLAB, "CI_COMMIT_SHA": HEAD, "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "2"},
        PullRequestFacts(head=HEAD, fork=True),
        GITLAB["CI_JOB_URL"],
    ),
    "GitLab, merged results": (
        {
            **GITLAB,
            "CI_COMMIT_SHA": MERGE,
            "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": HEAD,
            "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "1",
        },
        PullRequestFacts(head=HEAD, merge=MERGE, fork=False),
        GITLAB["CI_JOB_URL"],
    ),
    "Buildkite, same repository by another URL": (
        {**BUILDKITE, "BUILDKITE_PULL_REQUEST": "7", "BUILDKITE_PULL_REQUEST_REPO": "https://github.com/team/serving.git"},
        PullRequestFacts(head=HEAD, fork=False),
        BUILDKITE["BUILDKITE_BUILD_URL"],
    ),
    "Buildkite, from a fork": (
        {**BUILDKITE, "BUILDKITE_PULL_REQUEST": "7", "BUILDKITE_PULL_REQUEST_REPO": "git://github.com/eve/serving.git"},
        PullRequestFacts(head=HEAD, fork=True),
        BUILDKITE["BUILDKITE_BUILD_URL"],
    ),
    "Buildkite, push": ({**BUILDKITE, "BUILDKITE_PULL_REQUEST": "false"}, PullRequestFacts(), BUILDKITE["BUILDKITE_BUILD_URL"]),
    "CircleCI, from a fork": (
        {**CIRCLECI, "CIRCLE_PULL_REQUEST": "https://github.com/team/serving/pull/7", "CIRCLE_PR_USERNAME": "eve"},
        PullRequestFacts(head=HEAD, fork=True),
        CIRCLECI["CIRCLE_BUILD_URL"],
    ),
    "CircleCI, same repository": (
        {**CIRCLECI, "CIRCLE_PULL_REQUEST": "https://github.com/team/serving/pull/7"},
        PullRequestFacts(head=HEAD, fork=False),
        CIRCLECI["CIRCLE_BUILD_URL"],
    ),
    "Azure, from a fork": (
        {**AZURE_REQUEST, "SYSTEM_PULLREQUEST_ISFORK": "True"},
        PullRequestFacts(head=HEAD, merge=MERGE, fork=True),
        "https://dev.azure.com/team/serving/_build/results?buildId=99",
    ),
    "Azure, push": (
        {**AZURE, "BUILD_SOURCEVERSION": MAIN, "BUILD_SOURCEBRANCH": "refs/heads/main"},
        PullRequestFacts(),
        "https://dev.azure.com/team/serving/_build/results?buildId=99",
    ),
    "Azure, in a project with a space in its name": (
        {**AZURE, "SYSTEM_TEAMPROJECT": "My Project", "SYSTEM_COLLECTIONURI": "https://dev.azure.com/My%20Team/"},
        PullRequestFacts(),
        "https://dev.azure.com/My%20Team/My%20Project/_build/results?buildId=99",
    ),
    "Jenkins, from a fork": ({**JENKINS, "CHANGE_FORK": "eve"}, PullRequestFacts(fork=True), JENKINS["BUILD_URL"]),
    "Jenkins, same repository": (JENKINS, PullRequestFacts(), JENKINS["BUILD_URL"]),
    "another CI": ({"CI": "true", "DRONE_PULL_REQUEST": "7"}, PullRequestFacts(), ""),
    "Tekton, which sets no variables": ({}, PullRequestFacts(), ""),
    "Tekton, with the variables of the documentation": (
        {"CI": "true", "VLLM_CI_RUN_URL": "https://tekton.example.com/runs/99", "VLLM_CI_PULL_REQUEST": "7"},
        PullRequestFacts(),
        "https://tekton.example.com/runs/99",
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_head_merge_commit_fork_and_address_of_a_run(name: str) -> None:
    env, facts, url = RUNS[name]
    assert run_facts.pull_request(env) == facts
    assert current.run_url(env) == url


def github(tmp_path: Path, payload: Mapping[str, Any], event: str = "pull_request") -> dict[str, str]:
    file = tmp_path / "event.json"
    file.write_text(json.dumps(payload), encoding="utf-8")
    named = {"GITHUB_EVENT_NAME": event, "GITHUB_EVENT_PATH": str(file), "GITHUB_SHA": MERGE, "GITHUB_REF": "refs/pull/7/merge"}
    return {**GITHUB, **named}


@pytest.mark.parametrize(
    ("repository", "fork"), [({"full_name": "team/serving"}, False), ({"full_name": "eve/serving"}, True), (None, True)]
)
def test_github_s_event_names_the_head_and_the_fork(tmp_path: Path, repository: Any, fork: bool) -> None:
    head, base = {"sha": HEAD, "repo": repository}, {"sha": MAIN, "repo": {"full_name": "team/serving"}}
    env = github(tmp_path, {"number": 7, "pull_request": {"number": 7, "head": head, "base": base}})
    assert run_facts.pull_request(env) == PullRequestFacts(head=HEAD, merge=MERGE, fork=fork)
    assert current.run_url(env) == "https://github.com/team/serving/actions/runs/99"
    origin = " from a fork" if fork else ""
    start = f"GitHub Actions, pull request 7{origin}: testing"
    assert run_facts.describe(MERGE, env) == f"{start} {MERGE[:12]}, the merge of its head {HEAD[:12]} with the target branch"
    assert run_facts.describe(HEAD, env) == f"{start} its head {HEAD[:12]}"
    assert run_facts.describe(MAIN, env) == f"{start} {MAIN[:12]}; its head is {HEAD[:12]}"


def test_the_source_version_of_pull_request_target_is_not_called_a_merge(tmp_path: Path) -> None:
    pull = {"number": 7, "head": {"sha": HEAD, "repo": None}, "base": {"repo": {"full_name": "a/b"}}}
    env = github(tmp_path, {"pull_request": pull}, "pull_request_target")
    assert run_facts.pull_request(env) == PullRequestFacts(head=HEAD, fork=True)


@pytest.mark.parametrize("value", ["main", "$(id)", "1" * 39, "::error::x", "A" * 40, ""])
def test_a_value_that_is_no_commit_is_none(value: str) -> None:
    env = {**AZURE_REQUEST, "SYSTEM_PULLREQUEST_SOURCECOMMITID": value, "BUILD_SOURCEVERSION": value}
    assert run_facts.pull_request(env) == PullRequestFacts()
    number = {**AZURE_REQUEST, "SYSTEM_PULLREQUEST_PULLREQUESTID": "::error::x"}
    assert "::" not in run_facts.describe(HEAD, number)


def test_outside_ci_nothing_is_said_and_a_push_is_said_by_its_provider() -> None:
    assert run_facts.describe(HEAD, {}) == ""
    assert run_facts.describe(HEAD, BUILDKITE) == "Buildkite"


@pytest.mark.parametrize("missing", ["SYSTEM_COLLECTIONURI", "SYSTEM_TEAMPROJECT", "BUILD_BUILDID"])
def test_an_address_with_a_missing_part_is_not_given(missing: str) -> None:
    assert current.run_url({**AZURE, missing: ""}) == ""
