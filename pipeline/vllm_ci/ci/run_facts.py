"""What a provider tells about a pull request: its head, the merge commit that it made, and whether it is from a fork.

For display only: what may be released is decided by :mod:`vllm_ci.ci.commits`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vllm_ci.ci import current
from vllm_ci.ci.current import Provider

_ID = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class PullRequestFacts:
    """A pull or merge request, as far as the provider describes it.

    Attributes:
        head: Commit that its author pushed; empty if the provider does not name it.
        merge: Commit that the provider made of it and the target branch; empty if there is none.
        fork: Whether it is from a fork; ``None`` if the provider does not say so.
    """

    head: str = ""
    merge: str = ""
    fork: bool | None = None


def pull_request(env: Mapping[str, str] = os.environ) -> PullRequestFacts:
    """The pull request of this run; all unknown if it is for none."""
    reader = _READERS.get(current.provider(env))
    return reader(env) if reader and current.claim(env).pull_request else PullRequestFacts()


def describe(sha: str, env: Mapping[str, str] = os.environ) -> str:
    """One line about the run and the commit ``sha`` that is checked out; empty outside CI."""
    provider = current.provider(env)
    if provider is Provider.NONE:
        return ""
    number = current.claim(env).pull_request
    if not number:
        return provider.value
    facts = pull_request(env)
    named = f"pull request {number}" if number.isdigit() else "a pull request"
    origin = {True: " from a fork", False: "", None: ""}[facts.fork]
    return f"{provider.value}, {named}{origin}{_tested(sha, facts)}"


def _tested(sha: str, facts: PullRequestFacts) -> str:
    if sha == facts.head:
        return f": testing its head {sha[:12]}"
    if sha == facts.merge and facts.head:
        return f": testing {sha[:12]}, the merge of its head {facts.head[:12]} with the target branch"
    return f": testing {sha[:12]}" + (f"; its head is {facts.head[:12]}" if facts.head else "")


def _github(env: Mapping[str, str]) -> PullRequestFacts:
    """https://docs.github.com/webhooks/webhook-events-and-payloads#pull_request; a deleted fork has no repository."""
    event = current.mapping(current.event_payload(env), "pull_request")
    head, base = current.mapping(event, "head"), current.mapping(event, "base")
    names = [current.mapping(each, "repo").get("full_name") for each in (head, base)]
    merge = env.get("GITHUB_SHA", "") if env.get("GITHUB_EVENT_NAME") == "pull_request" else ""
    return PullRequestFacts(head=_id(head.get("sha")), merge=_id(merge), fork=names[0] != names[1] if event else None)


def _gitlab(env: Mapping[str, str]) -> PullRequestFacts:
    """https://docs.gitlab.com/ci/variables/predefined_variables/; the head is named for pipelines of merged results only."""
    head = _id(env.get("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA"))
    tested = _id(env.get("CI_COMMIT_SHA"))
    projects = [env.get(name) for name in ("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "CI_MERGE_REQUEST_PROJECT_ID")]
    fork = projects[0] != projects[1] if all(projects) else None
    return PullRequestFacts(head=head or tested, merge=tested if head else "", fork=fork)


def _jenkins(env: Mapping[str, str]) -> PullRequestFacts:
    """https://plugins.jenkins.io/github-branch-source/: CHANGE_FORK is set for forks only; no variable names the head."""
    return PullRequestFacts(fork=True if env.get("CHANGE_FORK") else None)


def _buildkite(env: Mapping[str, str]) -> PullRequestFacts:
    """https://buildkite.com/docs/pipelines/configure/environment-variables; the commit is that of the head."""
    repositories = [_plain(env.get(name, "")) for name in ("BUILDKITE_PULL_REQUEST_REPO", "BUILDKITE_REPO")]
    fork = repositories[0] != repositories[1] if all(repositories) else None
    return PullRequestFacts(head=_id(env.get("BUILDKITE_COMMIT")), fork=fork)


def _circleci(env: Mapping[str, str]) -> PullRequestFacts:
    """https://circleci.com/docs/reference/variables/: CIRCLE_PR_NUMBER and its like are set for forks only."""
    fork = any(env.get(name) for name in ("CIRCLE_PR_NUMBER", "CIRCLE_PR_USERNAME", "CIRCLE_PR_REPONAME"))
    return PullRequestFacts(head=_id(env.get("CIRCLE_SHA1")), fork=fork)


def _azure(env: Mapping[str, str]) -> PullRequestFacts:
    """https://learn.microsoft.com/azure/devops/pipelines/build/variables; the source version is that of the merge."""
    fork = {"true": True, "false": False}.get(env.get("SYSTEM_PULLREQUEST_ISFORK", "").lower())
    head, built = _id(env.get("SYSTEM_PULLREQUEST_SOURCECOMMITID")), _id(env.get("BUILD_SOURCEVERSION"))
    return PullRequestFacts(head=head, merge=built if built != head else "", fork=fork)


def _id(value: object) -> str:
    text = str(value or "")
    return text if _ID.fullmatch(text) else ""


def _plain(url: str) -> str:
    """``host/owner/name`` of a repository's URL, in whichever way it is written."""
    rest = url.partition("://")[2] or url.replace(":", "/", 1)
    return rest.rpartition("@")[2].removesuffix("/").removesuffix(".git").removesuffix("/").lower()


_READERS: Mapping[Provider, Callable[[Mapping[str, str]], PullRequestFacts]] = {
    Provider.GITHUB: _github,
    Provider.GITLAB: _gitlab,
    Provider.JENKINS: _jenkins,
    Provider.BUILDKITE: _buildkite,
    Provider.CIRCLECI: _circleci,
    Provider.AZURE: _azure,
}
