from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_ci.ci import current
from vllm_ci.ci.current import Claim, Provider


@pytest.mark.parametrize(
    ("env", "provider"),
    [
        ({}, Provider.NONE),
        ({"CI": "true"}, Provider.OTHER),
        ({"CI": "false"}, Provider.NONE),
        ({"TF_BUILD": "True"}, Provider.AZURE),
        ({"CI": "true", "BUILDKITE": "true"}, Provider.BUILDKITE),
        ({"CI": "true", "CIRCLECI": "true"}, Provider.CIRCLECI),
        ({"CODEBUILD_BUILD_ID": "x:1"}, Provider.OTHER),
        ({"CI": "true", "GITHUB_ACTIONS": "true"}, Provider.GITHUB),
        ({"CI": "true", "GITLAB_CI": "true"}, Provider.GITLAB),
        ({"JENKINS_URL": "http://jenkins"}, Provider.JENKINS),
    ],
)
def test_the_provider_is_detected_by_its_variables(env: dict[str, str], provider: Provider) -> None:
    assert current.provider(env) is provider


def test_any_other_ci_can_name_its_run() -> None:
    assert current.run_url({"CI": "true", "VLLM_CI_RUN_URL": "https://ci.example.com/7"}) == "https://ci.example.com/7"


def github(tmp_path: Path, event: str, payload: dict[str, Any], **more: str) -> Claim:
    file = tmp_path / "event.json"
    file.write_text(json.dumps(payload))
    env = {"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": event, "GITHUB_EVENT_PATH": str(file), "GITHUB_SHA": "5" * 40}
    return current.claim({**env, "GITHUB_REF": "refs/heads/main", **more})


@pytest.mark.parametrize(
    ("event", "payload", "number"),
    [
        ("pull_request_target", {"number": 7, "pull_request": {"number": 7}}, "7"),
        ("pull_request_target", {}, "unknown"),
        ("issue_comment", {"issue": {"number": 7, "pull_request": {"url": "x"}}}, "7"),
        ("workflow_run", {"workflow_run": {"event": "pull_request", "pull_requests": [{"number": 7}]}}, "7"),
        ("workflow_run", {"workflow_run": {"event": "pull_request", "pull_requests": []}}, "unknown"),
        ("workflow_run", {"workflow_run": {"event": "pull_request_target"}}, "unknown"),
        ("workflow_run", {"workflow_run": {"event": "something_new"}}, "unknown"),
        (
            "workflow_run",
            {"workflow_run": {"event": "push", "repository": {"full_name": "a/b"}, "head_repository": {"full_name": "eve/b"}}},
            "unknown",
        ),
        ("a_new_event", {"pull_request": {"number": 7}}, "7"),
    ],
)
def test_the_number_of_a_pull_request_is_read_from_github_s_event(
    tmp_path: Path, event: str, payload: dict[str, Any], number: str
) -> None:
    assert github(tmp_path, event, payload) == Claim(pull_request=number)


def test_a_workflow_after_a_push_is_for_the_default_branch(tmp_path: Path) -> None:
    same = {"full_name": "a/b"}
    payload = {"workflow_run": {"event": "push", "repository": same, "head_repository": same}}
    assert github(tmp_path, "workflow_run", payload) == Claim(ref="refs/heads/main", sha="5" * 40)


@pytest.mark.parametrize("payload", ["", "[]", '{"pull_request": 1, "workflow_run": [], "issue": "x"}', "\xff"])
def test_an_event_that_cannot_be_read_is_no_fault(tmp_path: Path, payload: str) -> None:
    file = tmp_path / "event.json"
    file.write_text(payload, encoding="latin-1")
    env = {"GITHUB_ACTIONS": "1", "GITHUB_EVENT_NAME": "push", "GITHUB_EVENT_PATH": str(file), "GITHUB_REF": "refs/heads/main"}
    assert current.claim(env).ref == "refs/heads/main"
