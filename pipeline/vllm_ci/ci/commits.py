"""Which branch or tag a commit was reached by, and for which pull request: what git knows, and which claims of a CI count.

A ref decides what may be released, so it counts only where something outside the run confirms it: the provider's own commit id,
or a ref of git that the checked out code cannot make.
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
    """The commit that ``revision`` names, with the ref and the pull request that are believed.

    Args:
        checkout: Top folder of the repository.
        revision: Any name that git takes.
        env: Environment variables of this process.
        note: Told when a statement of the user is ignored.

    Raises:
        UsageError: There is no such commit.
    """
    commit = vcs.discover(checkout, revision)
    rows = vcs.git("for-each-ref", f"--points-at={commit.sha}", "--format=%(refname)", cwd=checkout)
    refs = rows.decode(errors="surrogateescape").splitlines()
    believed, ignored = believe(
        commit, provider=current.provider(env), claim=current.claim(env), stated=env.get(STATED, ""), refs=refs
    )
    if ignored:
        note(ignored)
    return believed


def believe(commit: Commit, *, provider: Provider, claim: Claim, stated: str, refs: Collection[str]) -> tuple[Commit, str]:
    """The commit with the ref and the pull request that are believed, and a note about a statement that is not.

    Args:
        commit: As git has it.
        provider: Who runs us.
        claim: What they say.
        stated: What the user says (``VLLM_CI_REF``), a full or a short name.
        refs: Full names of git's refs that point at the commit.
    """
    if claim.pull_request:
        note = f"{STATED}={stated} is ignored: this run is for pull request {claim.pull_request}" if stated else ""
        return replace(commit, ref="", pull_request=claim.pull_request), note
    local = provider is Provider.NONE
    if stated and (found := confirmed(stated, refs, local=local)):
        return replace(commit, ref=found, pull_request=""), ""
    return replace(commit, ref=_without_statement(commit, provider, claim, refs), pull_request=""), _note(stated, local=local)


def confirmed(name: str, refs: Collection[str], *, local: bool) -> str:
    """Full name of the branch or tag that ``name`` means, where git's own refs at the commit confirm it; else empty.

    Of a short name, a branch is looked for first. A local branch confirms nothing in a CI: the checkout chose its name.
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
    if provider is Provider.OTHER:
        return confirmed(commit.ref, refs, local=False) if commit.ref else ""
    if claim.sha:
        return claim.ref if claim.sha == commit.sha else ""
    return confirmed(claim.ref, refs, local=False) if claim.ref else ""


def _note(stated: str, *, local: bool) -> str:
    if not stated:
        return ""
    where = "the branch here, " if local else ""
    return (
        f"{STATED}={stated} is ignored: no such branch or tag points at this commit "
        f"(what counts: {where}the branch as origin has it, or the tag; fetch it first)"
    )
