"""Location of the files of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vllm_ci.domain.changes import Changes
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.program import Directory
from vllm_ci.domain.report import ServedModel


@dataclass(frozen=True, kw_only=True)
class Source:
    """Location of a project's files.

    Attributes:
        commit: The commit of the files.
        checkout: The repository, with its ``.git``.
        project: Directory of the configuration file.
        model: Directory of the checkpoint, if the project names one by path.
        changed: Differences from the base branch; ``None`` if not determined.
        secrets: Values of the project's secrets, by variable name.
        served: Which version of the models' repository ``model`` is, if it is one.
    """

    commit: Commit
    checkout: Directory
    project: Directory
    model: Directory | None = None
    changed: Changes | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    served: ServedModel | None = None
