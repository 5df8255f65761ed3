"""Reads the target branch of a change from the CI provider's variables."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_ci.ci.current import Provider, provider
from vllm_ci.system.base_branch import BaseBranch

_ID = re.compile(r"[0-9a-f]{40}")
# Variables of providers without their own entry in Provider: Azure Pipelines, Bitbucket, Buildkite, Drone and Woodpecker.
_TARGETS = (
    *("SYSTEM_PULLREQUEST_TARGETBRANCH", "BITBUCKET_PR_DESTINATION_BRANCH", "BUILDKITE_PULL_REQUEST_BASE_BRANCH"),
    *("DRONE_TARGET_BRANCH", "CI_COMMIT_TARGET_BRANCH"),
)


def base(env: Mapping[str, str] = os.environ) -> BaseBranch:
    """The base branch, as far as the provider names it. ``VLLM_CI_BASE`` (a branch or a commit) overrides the provider."""
    if named := env.get("VLLM_CI_BASE", ""):
        return BaseBranch(sha=named) if _ID.fullmatch(named) else BaseBranch(branch=named)
    match provider(env):
        case Provider.GITHUB:
            return _github(env)
        case Provider.GITLAB:
            return _gitlab(env)
        case Provider.JENKINS:
            return BaseBranch(branch=env.get("CHANGE_TARGET", ""))
        case _:
            found = next((value for name in _TARGETS if (value := env.get(name, ""))), "")
            return BaseBranch(branch=found.removeprefix("refs/heads/"))


def _github(env: Mapping[str, str]) -> BaseBranch:
    """https://docs.github.com/actions/reference/workflows-and-actions/variables, and the event's payload."""
    event = _event(env.get("GITHUB_EVENT_PATH", ""))
    if branch := env.get("GITHUB_BASE_REF", ""):
        return BaseBranch(branch=branch)
    queue = event.get("merge_group")
    if isinstance(queue, dict):
        return BaseBranch(branch=str(queue.get("base_ref", "")).removeprefix("refs/heads/"), sha=_id(queue.get("base_sha")))
    repository = event.get("repository")
    default = repository.get("default_branch") if isinstance(repository, dict) else ""
    return BaseBranch(branch=str(default or ""), before=_id(event.get("before")))


def _event(path: str) -> Mapping[str, Any]:
    try:
        found = json.loads(Path(path).read_bytes()) if path else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _gitlab(env: Mapping[str, str]) -> BaseBranch:
    """https://docs.gitlab.com/ci/variables/predefined_variables/."""
    before = _id(env.get("CI_COMMIT_BEFORE_SHA"))
    if target := env.get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", ""):
        sha = _id(env.get("CI_MERGE_REQUEST_TARGET_BRANCH_SHA")) or _id(env.get("CI_MERGE_REQUEST_DIFF_BASE_SHA"))
        return BaseBranch(branch=target, sha=sha, before=before)
    return BaseBranch(branch=env.get("CI_DEFAULT_BRANCH", ""), before=before)


def _id(value: object) -> str:
    """A commit id; empty for any other value, and for all zeros, which mean that there is no commit."""
    text = str(value or "")
    return text if _ID.fullmatch(text) and text.strip("0") else ""
