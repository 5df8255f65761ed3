"""A project in its checkout: configuration, commit and files."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from vllm_ci.ci import base, commits
from vllm_ci.config import models
from vllm_ci.config.load import GENERATED_KEY, Loaded
from vllm_ci.domain.changes import Changes
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import ConfigError
from vllm_ci.domain.events import Emit, ignore
from vllm_ci.domain.project import Project
from vllm_ci.domain.report import ServedModel
from vllm_ci.engine import Engine
from vllm_ci.images import model_wheels
from vllm_ci.pipeline.steps import Source
from vllm_ci.system import base_branch, vcs


@dataclass(frozen=True, kw_only=True)
class OpenProject:
    """A project in its checkout.

    Attributes:
        loaded: The configuration.
        checkout: Top directory of the repository.
        commit: HEAD of the checkout.
        project: The configured project.
        changed: Differences from the base branch; ``None`` if not needed.
        served: The version of the models' repository that ``model.ref`` means; its files are at ``project.model.path``.
    """

    loaded: Loaded
    checkout: Path
    commit: Commit
    project: Project
    changed: Changes | None = None
    served: ServedModel | None = None

    def source(self, engine: Engine) -> Source:
        """The files as handles of ``engine``.

        Raises:
            ConfigError: The model directory or the lock of the model's wheel does not exist, or the lock is not valid.
        """
        model = None
        if self.project.model.wheel:
            model_wheels.locked(self.loaded.folder / self.project.model.wheel)
        if self.project.model.path:
            folder = self.loaded.folder / self.project.model.path
            if not folder.is_dir():
                raise ConfigError(
                    f"model.path: directory not found: {folder}", remedy="correct the path, or remove it to use a tiny model"
                )
            model = engine.directory(folder)
        return Source(
            commit=self.commit,
            checkout=engine.directory(self.checkout),
            project=engine.directory(self.loaded.folder),
            model=model,
            changed=self.changed,
            served=self.served,
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must not appear in reports."""
        server = self.project.server
        own = [secret for stage in self.project.known if stage.own is not None for secret in stage.own.secrets]
        names = (*(name.rpartition("=")[2] for name in (*server.secrets, *own)), server.api_key_env)
        return tuple(os.environ[name] for name in names if name and os.environ.get(name))


def open_project(
    loaded: Loaded,
    stages: tuple[str, ...] = (),
    *,
    changes: bool = False,
    own: Iterable[str] = (),
    note: Callable[[str], None] = lambda _: None,
    emit: Emit = ignore,
) -> OpenProject:
    """Open the project of a configuration.

    Args:
        loaded: The configuration.
        stages: Stages to run; by default the enabled ones.
        changes: Compare the commit with its base branch if rules of a stage need that.
        own: Names of the stages that the user's pipeline defines.
        note: Called with a message when a ref or pull request is ignored.
        emit: Told of the pull of a model.

    Raises:
        ConfigError: There is no such stage, or git ignores the pipeline's file.
        UsageError: The configuration is not in a git checkout.
    """
    checkout = vcs.root(loaded.folder)
    commit = commits.discover(checkout, note=note)
    if (file := loaded.pipeline) is not None:
        _check_not_ignored(file.path, checkout)
    if loaded.config.server.generate_api_key:
        os.environ.setdefault(GENERATED_KEY, secrets.token_urlsafe(24))
    place = loaded.path.resolve().relative_to(checkout.resolve()).as_posix()
    project, served = models.resolved(loaded, loaded.project(place, stages, own=own), emit=emit)
    changed = None
    if changes and any(stage.changed for stage in project.stages):
        folder = loaded.folder.resolve().relative_to(checkout.resolve()).as_posix()
        changed = base_branch.changes(checkout, commit, base.base(), folder=folder)
    return OpenProject(loaded=loaded, checkout=checkout, commit=commit, project=project, changed=changed, served=served)


def _check_not_ignored(path: Path, checkout: Path) -> None:
    """Refuse a pipeline that git ignores: the commit would look clean, and its report would come from other code.

    Raises:
        ConfigError: Git ignores the file.
    """
    names = ("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--", str(path.absolute()))
    if vcs.git(*names, cwd=checkout):
        raise ConfigError(
            f"the pipeline {path} is ignored by git",
            why="it is not part of the commit that it would test",
            remedy="remove it from .gitignore and commit it, or set `pipeline: default`",
        )
