"""All that is known of CI providers: how to tell them apart, what they say of the commit, how they fold a log."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass


class Provider(enum.StrEnum):
    """Who runs us."""

    GITHUB = "GitHub Actions"
    GITLAB = "GitLab CI"
    JENKINS = "Jenkins"
    OTHER = "another CI"
    NONE = "no CI"


@dataclass(frozen=True, kw_only=True)
class Fold:
    """How a provider folds a part of a log; ``{name}``, ``{slug}`` and ``{time}`` are filled in."""

    start: str
    end: str


_PRESENT = {
    Provider.GITHUB: "GITHUB_ACTIONS",
    Provider.GITLAB: "GITLAB_CI",
    Provider.JENKINS: "JENKINS_URL",
    Provider.OTHER: "CI",
}
FOLDS = {
    Provider.GITHUB: Fold(start="::group::{name}", end="::endgroup::"),
    Provider.GITLAB: Fold(
        start="\033[0Ksection_start:{time}:{slug}\r\033[0K{name}",
        end="\033[0Ksection_end:{time}:{slug}\r\033[0K",
    ),
}
_REFS = {
    Provider.GITHUB: "GITHUB_REF_NAME",
    Provider.GITLAB: "CI_COMMIT_REF_NAME",
    Provider.JENKINS: "BRANCH_NAME",
}
_RUN_URLS = {Provider.GITLAB: "CI_JOB_URL", Provider.JENKINS: "BUILD_URL"}
_PULL_REQUESTS = {Provider.GITLAB: "CI_MERGE_REQUEST_IID", Provider.JENKINS: "CHANGE_ID"}


def provider(env: Mapping[str, str] = os.environ) -> Provider:
    """Who runs us, from the variables that each provider documents."""
    for candidate, variable in _PRESENT.items():
        if env.get(variable, "").lower() not in ("", "0", "false"):
            return candidate
    return Provider.NONE


def ref(env: Mapping[str, str] = os.environ) -> str:
    """Branch or tag; CI checks out a commit without one, so git alone cannot tell. ``VLLM_CI_REF`` says it anywhere."""
    return env.get("VLLM_CI_REF") or env.get(_REFS.get(provider(env), ""), "")


def run_url(env: Mapping[str, str] = os.environ) -> str:
    """URL of the run, empty when nobody runs us or the provider names none. ``VLLM_CI_RUN_URL`` says it anywhere."""
    if named := env.get("VLLM_CI_RUN_URL"):
        return named
    if provider(env) is Provider.GITHUB:
        parts = [env.get(name, "") for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")]
        return f"{parts[0]}/{parts[1]}/actions/runs/{parts[2]}" if all(parts) else ""
    return env.get(_RUN_URLS.get(provider(env), ""), "")


def pull_request(env: Mapping[str, str] = os.environ) -> str:
    """Number of the pull or merge request, empty when none."""
    who = provider(env)
    if who is Provider.GITHUB:
        parts = env.get("GITHUB_REF", "").split("/")
        return parts[2] if parts[:2] == ["refs", "pull"] and len(parts) > 2 else ""
    return env.get(_PULL_REQUESTS.get(who, ""), "")
