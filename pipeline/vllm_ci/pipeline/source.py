"""Where the files of a run are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vllm_ci.domain.changes import Changes
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.program import Directory


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a project's files are.

    Attributes:
        commit: What they are a state of.
        checkout: The repository, with its ``.git``.
        project: The folder of the configuration file.
        model: Folder of the checkpoint, when the project names one by path.
        changed: What differs from the base branch; ``None`` when that was not looked up.
        secrets: Values of the secrets that the project names, by the name of their variable.
    """

    commit: Commit
    checkout: Directory
    project: Directory
    model: Directory | None = None
    changed: Changes | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
