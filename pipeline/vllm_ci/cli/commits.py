"""The commit of a command; notes about ignored refs and pull requests go to standard error."""

from __future__ import annotations

from pathlib import Path

from vllm_ci.ci import commits
from vllm_ci.cli.output import show
from vllm_ci.domain.commit import Commit


def discover(checkout: Path, revision: str = "HEAD") -> Commit:
    """The commit that ``revision`` names, with its verified ref and pull request.

    Raises:
        UsageError: There is no such commit.
    """
    return commits.discover(checkout, revision, note=note)


def note(text: str) -> None:
    """Print a note about the commit on standard error."""
    show(f"vllm-ci: {text}", err=True)
