"""Determine the branch or tag of a commit and its pull request, from git and from variables of the CI provider.

A ref decides what may be released, so it is accepted only if something outside the run confirms it: the commit id of the
provider, or a git ref that the checked out code cannot create.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from vllm_ci.ci import current
from vllm_ci.ci.current import Claim, Provider
from vllm_ci.domain.commit import Commit
from vllm_ci.system import vcs

STATED = "VLLM_CI_REF"
_REMOTE = "refs/remotes/origin/"


def discover(
    checkout: Path,
    revision: str = "HEAD",
    env: Mapping[str, str] = os.environ,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> Commit:
    """The commit that ``revision`` names, with its confirmed ref and pull request.

    Args:
        checkout: Top directory of the repository.
        revision: Any revision that git accepts.
        env: Environment variables of this process.
        note: Called with a message when a ref set by the user is ignored.

    Raises:
        UsageError: There is no such commit.
    """
    commit = vcs.discover(checkout, revision)
    rows = vcs.git("for-each-ref", f"--points-at={commit.sha}", "--format=%(refname)", cwd=checkout)
    refs = rows.decode(errors="surrogateescape").split("\n")
    believed, ignored = believe(
        commit, provider=current.provider(env), claim=current.claim(env), stated=env.get(STATED, ""), refs=refs
    )
    if ignored:
        note(ignored)
    return believed


def believe(commit: Commit, *, provider: Provider, claim: Claim, stated: str, refs: Collection[str]) -> tuple[Commit, str]:
    """The commit with its confirmed ref and pull request, and a note if a ref set by the user is ignored.

    Args:
        commit: The commit according to git.
        provider: The CI provider of this run.
        claim: Ref and pull request according to the provider.
        stated: Ref set by the user (``VLLM_CI_REF``), a full or a short name.
        refs: Full names of git refs that point at the commit.
    """
    if claim.pull_request:
        note = f"ignoring {STATED}={stated}: this run is for pull request {claim.pull_request}" if stated else ""
        return replace(commit, ref="", pull_request=claim.pull_request), note
    local = provider is Provider.NONE
    if stated and (found := confirmed(stated, refs, local=local)):
        return replace(commit, ref=found, pull_request=""), ""
    return replace(commit, ref=_without_statement(commit, provider, claim, refs), pull_request=""), _note(stated, local=local)


def confirmed(name: str, refs: Collection[str], *, local: bool) -> str:
    """Full name of the branch or tag ``name`` if git refs at the commit confirm it, otherwise empty.

    For a short name, branches are tried first. In a CI, a local branch confirms nothing: its name comes from the checkout.
    """
    if name.startswith("refs/"):
        full = [name] if name.startswith(("refs/heads/", "refs/tags/")) else []
    else:
        full = [f"refs/heads/{name}", f"refs/tags/{name}"]
    for each in full:
        remote = _REMOTE + each.removeprefix("refs/heads/")
        if each.startswith("refs/tags/") and each in refs:
            return each
        if each.startswith("refs/heads/") and (remote in refs or (local and each in refs)):
            return each
    return ""


def _without_statement(commit: Commit, provider: Provider, claim: Claim, refs: Collection[str]) -> str:
    if provider is Provider.NONE:
        return commit.ref
    if provider not in current.CLAIMING:
        return confirmed(commit.ref, refs, local=False) if commit.ref else ""
    if claim.sha:
        return claim.ref if claim.sha == commit.sha else ""
    return confirmed(claim.ref, refs, local=False) if claim.ref else ""


def _note(stated: str, *, local: bool) -> str:
    if not stated:
        return ""
    where = "a local branch, " if local else ""
    return (
        f"ignoring {STATED}={stated}: no such branch or tag points at this commit "
        f"(accepted: {where}a branch of origin or a tag; run git fetch first)"
    )
