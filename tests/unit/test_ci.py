from __future__ import annotations

import pytest

from vllm_ci import ci
from vllm_ci.ci import Provider


@pytest.mark.parametrize(
    ("env", "provider", "ref", "pull_request"),
    [
        ({}, Provider.NONE, "", ""),
        ({"CI": "true"}, Provider.OTHER, "", ""),
        ({"CI": "false"}, Provider.NONE, "", ""),
        (
            {"CI": "true", "GITHUB_ACTIONS": "true", "GITHUB_REF": "refs/pull/17/merge", "GITHUB_REF_NAME": "17/merge"},
            Provider.GITHUB,
            "17/merge",
            "17",
        ),
        ({"GITHUB_ACTIONS": "true", "GITHUB_REF": "refs/heads/main", "GITHUB_REF_NAME": "main"}, Provider.GITHUB, "main", ""),
        ({"GITLAB_CI": "true", "CI_COMMIT_REF_NAME": "topic", "CI_MERGE_REQUEST_IID": "5"}, Provider.GITLAB, "topic", "5"),
        ({"JENKINS_URL": "http://jenkins", "BRANCH_NAME": "PR-3", "CHANGE_ID": "3"}, Provider.JENKINS, "PR-3", "3"),
    ],
)
def test_the_provider_and_what_it_says_of_the_commit(
    env: dict[str, str], provider: Provider, ref: str, pull_request: str
) -> None:
    assert ci.provider(env) is provider
    assert ci.ref(env) == ref
    assert ci.pull_request(env) == pull_request


def test_any_other_ci_can_say_the_same() -> None:
    env = {"CI": "true", "VLLM_CI_REF": "v1.0", "VLLM_CI_RUN_URL": "https://ci.example.com/7", "GITHUB_REF_NAME": "main"}
    assert ci.ref(env) == "v1.0"
    assert ci.run_url(env) == "https://ci.example.com/7"
