"""CI providers: how to detect them, which variables describe the run, and how their logs fold."""

from __future__ import annotations

import enum
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote


class Provider(enum.StrEnum):
    """The CI provider that runs this process."""

    GITHUB = "GitHub Actions"
    GITLAB = "GitLab CI"
    JENKINS = "Jenkins"
    BUILDKITE = "Buildkite"
    CIRCLECI = "CircleCI"
    AZURE = "Azure Pipelines"
    OTHER = "another CI"
    NONE = "no CI"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a provider claims about the commit of a run; :mod:`vllm_ci.ci.commits` decides which claims are accepted.

    Attributes:
        ref: Full name of a branch or tag; empty when the event is about neither, or is not known.
        sha: Commit that the provider names for the ref; empty when it names none.
        pull_request: Number of the pull or merge request that the run is for; ``unknown`` when its number is not available.
    """

    ref: str = ""
    sha: str = ""
    pull_request: str = ""


UNKNOWN_NUMBER = "unknown"

_PRESENT = {
    Provider.GITHUB: ("GITHUB_ACTIONS",),
    Provider.GITLAB: ("GITLAB_CI",),
    Provider.JENKINS: ("JENKINS_URL",),
    Provider.BUILDKITE: ("BUILDKITE",),
    Provider.CIRCLECI: ("CIRCLECI",),
    Provider.AZURE: ("TF_BUILD",),
    # TeamCity and CodeBuild do not set CI.
    Provider.OTHER: ("CI", "TEAMCITY_VERSION", "CODEBUILD_BUILD_ID"),
}
# Format strings of variables; every variable in it must be set.
_RUN_URLS = {
    Provider.GITHUB: "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/actions/runs/{GITHUB_RUN_ID}",
    Provider.GITLAB: "{CI_JOB_URL}",
    Provider.JENKINS: "{BUILD_URL}",
    Provider.BUILDKITE: "{BUILDKITE_BUILD_URL}",
    Provider.CIRCLECI: "{CIRCLE_BUILD_URL}",
    Provider.AZURE: "{SYSTEM_COLLECTIONURI}{SYSTEM_TEAMPROJECT}/_build/results?buildId={BUILD_BUILDID}",
}
_IN_URL = ":/?#@&=%+-._~"
# Providers whose variables confirm a ref; with the others, only git refs do.
CLAIMING = frozenset({Provider.GITHUB, Provider.GITLAB, Provider.JENKINS})

# Events that are about a branch or a tag, according to the providers' documentation. Other events claim no ref.
GITHUB_EVENTS = frozenset(
    {"", "push", "create", "schedule", "workflow_dispatch", "repository_dispatch", "workflow_call", "workflow_run"}
    | {"release", "deployment", "deployment_status"}
)
GITHUB_PULL_REQUEST_EVENTS = frozenset(
    {"pull_request", "pull_request_target", "pull_request_review", "pull_request_review_comment", "merge_group"}
)
GITLAB_SOURCES = frozenset({"", "push", "web", "webide", "schedule", "api", "trigger", "pipeline", "parent_pipeline", "chat"})
GITLAB_PULL_REQUEST_SOURCES = frozenset({"merge_request_event", "external_pull_request_event"})
_QUEUED = re.compile(r"refs/heads/gh-readonly-queue/.+/pr-(\d+)-[0-9a-f]+")
_NO = ("", "0", "false")
# Variables of other providers; some are "false" when there is no pull request, some contain its URL.
_OTHER_NUMBERS = (
    *("SYSTEM_PULLREQUEST_PULLREQUESTNUMBER", "SYSTEM_PULLREQUEST_PULLREQUESTID"),  # Azure Pipelines
    *("BITBUCKET_PR_ID", "BUILDKITE_PULL_REQUEST", "TRAVIS_PULL_REQUEST", "CIRCLE_PULL_REQUEST", "DRONE_PULL_REQUEST"),
    *("CIRCLE_PR_NUMBER", "CI_COMMIT_PULL_REQUEST", "APPVEYOR_PULL_REQUEST_NUMBER", "CIRRUS_PR", "SEMAPHORE_GIT_PR_NUMBER"),
)
# Jenkins: multibranch jobs; the plugins for pull requests of GitHub and merge requests of GitLab in other jobs.
_JENKINS_NUMBERS = ("CHANGE_ID", "ghprbPullId", "gitlabMergeRequestIid")


def provider(env: Mapping[str, str] = os.environ) -> Provider:
    """The provider, detected by the variables that each provider documents."""
    for candidate, names in _PRESENT.items():
        if any(env.get(name, "").lower() not in _NO for name in names):
            return candidate
    return Provider.NONE


def run_url(env: Mapping[str, str] = os.environ) -> str:
    """URL of the run; empty outside CI, or when the provider names none. ``VLLM_CI_RUN_URL`` overrides it."""
    if named := env.get("VLLM_CI_RUN_URL"):
        return named
    try:
        found = _RUN_URLS.get(provider(env), "").format_map({name: value for name, value in env.items() if value})
    except KeyError:
        return ""
    return quote(found, _IN_URL, errors="replace")  # projects of Azure may have spaces in their names


def claim(env: Mapping[str, str] = os.environ) -> Claim:
    """The provider's claim about the commit; ``VLLM_CI_PULL_REQUEST`` marks a run for a pull request with any provider."""
    here = provider(env)
    found = Claim() if here is Provider.NONE else _CLAIMS.get(here, _other)(env)
    stated = env.get("VLLM_CI_PULL_REQUEST", "")
    return Claim(pull_request=found.pull_request or stated) if found.pull_request or stated else found


def _github(env: Mapping[str, str]) -> Claim:
    """https://docs.github.com/actions/reference/workflows-and-actions/events-that-trigger-workflows."""
    event, ref = env.get("GITHUB_EVENT_NAME", ""), env.get("GITHUB_REF", "")
    payload = event_payload(env)
    number = _github_number(event, ref, payload)
    # GITHUB_HEAD_REF is set in runs for pull requests only.
    if number or event in GITHUB_PULL_REQUEST_EVENTS or env.get("GITHUB_HEAD_REF"):
        return Claim(pull_request=number or UNKNOWN_NUMBER)
    return Claim(ref=_branch_or_tag(ref), sha=env.get("GITHUB_SHA", "")) if event in GITHUB_EVENTS else Claim()


def _github_number(event: str, ref: str, payload: Mapping[str, Any]) -> str:
    """Number of the pull request that an event is about; empty for other events."""
    parts = ref.split("/")
    if parts[:2] == ["refs", "pull"] and len(parts) > 2:
        return parts[2]
    if queued := _QUEUED.fullmatch(ref):
        return queued[1]
    if request := mapping(payload, "pull_request"):
        return str(request.get("number") or UNKNOWN_NUMBER)
    if mapping(mapping(payload, "issue"), "pull_request"):
        return str(mapping(payload, "issue").get("number") or UNKNOWN_NUMBER)
    before = mapping(payload, "workflow_run")
    if event == "workflow_run" and before and _for_pull_request(before):
        requests = before.get("pull_requests")
        first = requests[0] if isinstance(requests, list) and requests else {}
        return str(first.get("number") if isinstance(first, dict) and first.get("number") else UNKNOWN_NUMBER)
    return ""


def _for_pull_request(before: Mapping[str, Any]) -> bool:
    """Whether the run that triggered a ``workflow_run`` was for a pull request or in a fork; unknown events count as one."""
    event = str(before.get("event", ""))
    home, head = (mapping(before, name).get("full_name") for name in ("repository", "head_repository"))
    return event not in GITHUB_EVENTS - {""} or (head is not None and head != home)


def event_payload(env: Mapping[str, str]) -> Mapping[str, Any]:
    """The payload of the event, from the file that GitHub writes."""
    try:
        value = json.loads(Path(env.get("GITHUB_EVENT_PATH", "")).read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def mapping(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The mapping at a key; empty if there is something else."""
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _gitlab(env: Mapping[str, str]) -> Claim:
    """https://docs.gitlab.com/ci/variables/predefined_variables/."""
    source = env.get("CI_PIPELINE_SOURCE", "")
    # Child pipelines of a merge request's pipeline have its number too.
    number = env.get("CI_MERGE_REQUEST_IID") or env.get("CI_EXTERNAL_PULL_REQUEST_IID")
    if number or env.get("CI_MERGE_REQUEST_ID") or source in GITLAB_PULL_REQUEST_SOURCES:
        return Claim(pull_request=number or UNKNOWN_NUMBER)
    if source not in GITLAB_SOURCES:
        return Claim()
    # CI_COMMIT_REF_NAME does not say whether it names a branch or a tag, and is set for merge requests as well.
    tag, branch = env.get("CI_COMMIT_TAG"), env.get("CI_COMMIT_BRANCH")
    ref = f"refs/tags/{tag}" if tag else f"refs/heads/{branch}" if branch else ""
    return Claim(ref=ref, sha=env.get("CI_COMMIT_SHA", ""))


def _jenkins(env: Mapping[str, str]) -> Claim:
    """https://plugins.jenkins.io/github-branch-source/ and git-plugin; ``BRANCH_NAME`` is set for tags as well."""
    number = next((env[name] for name in _JENKINS_NUMBERS if env.get(name)), "")
    if number or any(env.get(name) for name in ("CHANGE_FORK", "CHANGE_BRANCH", "CHANGE_TARGET")):
        return Claim(pull_request=number or UNKNOWN_NUMBER)
    tag, branch = env.get("TAG_NAME"), env.get("BRANCH_NAME")
    ref = f"refs/tags/{tag}" if tag else f"refs/heads/{branch}" if branch else ""
    return Claim(ref=ref, sha=env.get("GIT_COMMIT", ""))


def _other(env: Mapping[str, str]) -> Claim:
    """For other providers: detect a pull request by the variables that they document."""
    numbers = [env[name].rpartition("/")[2] for name in _OTHER_NUMBERS if env.get(name, "").lower() not in _NO]
    return Claim(pull_request=numbers[0] or UNKNOWN_NUMBER) if numbers else Claim()


def _branch_or_tag(ref: str) -> str:
    return ref if ref.startswith(("refs/heads/", "refs/tags/")) else ""


_CLAIMS: Mapping[Provider, Callable[[Mapping[str, str]], Claim]] = {
    Provider.GITHUB: _github,
    Provider.GITLAB: _gitlab,
    Provider.JENKINS: _jenkins,
}
