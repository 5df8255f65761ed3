"""How a release is served at a target: the command line, environment and model of its servers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import anyio
from pydantic import TypeAdapter

from vllm_ci.config import models, obtain
from vllm_ci.config.deploy import DeploySettings
from vllm_ci.config.load import GENERATED_KEY, Loaded
from vllm_ci.deploy.target import Revision, Serving
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.domain.events import Emit
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.project import ModelSpec, Project, cache_key
from vllm_ci.engines.host import HostEngine
from vllm_ci.engines.host_directory import HostDirectory
from vllm_ci.images import device
from vllm_ci.images.vllm import entry_point
from vllm_ci.pipeline import fitting, serving
from vllm_ci.pipeline.source import Source
from vllm_ci.release.record import Release
from vllm_ci.release.setup import Setup
from vllm_ci.targets.local.state import write

_REVISION = TypeAdapter(Revision)
# vLLM offers its sleep mode only with these; no route of the gateway leads there.
_SLEEP_FLAGS, _SLEEP_ENV = ("--enable-sleep-mode",), {"VLLM_SERVER_DEV_MODE": "1"}


async def revision(
    loaded: Loaded,
    settings: DeploySettings,
    setup: Setup,
    release: Release,
    config: Mapping[str, Any],
    *,
    kept: Path,
    prepare: bool,
    emit: Emit,
) -> Revision:
    """A release with the sections ``model:`` and ``server:`` of the configuration.

    For target ``local`` a tiny model is made here, and the settings of a server on CPUs are fitted to this machine: once for
    each release and configuration, because free memory differs from one moment to the next.

    Where the release recorded the model that it was tested with, target ``local`` serves those very files, whatever the
    configuration or an alias points to by now.

    Args:
        loaded: The configuration.
        settings: Of the channel's deployment.
        setup: Where the image is.
        release: The release.
        config: OCI configuration of its image.
        kept: Folder where revisions are kept.
        prepare: Pull the image, make the model and fit the settings, where that was not done before.
        emit: Told of each step.

    Raises:
        ConfigError: The folder of the model does not exist.
        UsageError: The target cannot have such a model, or the number of GPUs is not known.
        FailedError: Nobody who is trusted signed the recorded model, or a file of it was altered.
        ErroredError: The model could not be made.
    """
    project = _recorded(_deployed(loaded.project(loaded.path.name)), release, settings)
    if settings.target == "local":
        project, _ = await anyio.to_thread.run_sync(lambda: models.resolved(loaded, project, emit=emit))
    image = ImageRef(repository=setup.subject, digest=release.digest)
    checkpoint = _folder(loaded, project)
    plain = serving_of(project, settings, config, checkpoint, weights=release.model)
    if settings.target == "local":
        made_from = (loaded.folder / project.model.wheel).read_bytes() if project.model.wheel else b""
        key = cache_key(release.digest, json.dumps([asdict(plain), asdict(project.model)], sort_keys=True), made_from)
        before = _read(kept / f"{key}.json")
        if before or not prepare:
            return before or Revision(commit=release.commit, image=image, serving=plain)
        project, checkpoint = await _here(loaded, project, setup, release, config, checkpoint, emit=emit)
        made = Revision(
            commit=release.commit, image=image, serving=serving_of(project, settings, config, checkpoint, weights=release.model)
        )
        _write(kept / f"{key}.json", made)
        return made
    if (project.model.tiny is not None or project.model.wheel) and settings.target != "memory":
        raise UsageError(
            f"a generated model cannot be deployed to {settings.target}",
            why="it is made on this machine",
            remedy="name a model that the servers can load: model.name",
        )
    return Revision(commit=release.commit, image=image, serving=plain)


def _folder(loaded: Loaded, project: Project) -> str:
    """Folder of the model; empty when it is made, or loaded by name."""
    if not project.model.path:
        return ""
    folder = (loaded.folder / project.model.path).resolve()
    if not folder.is_dir():
        raise ConfigError(f"model.path: directory not found: {folder}", remedy="correct the path, or name a model: model.name")
    return str(folder)


def _read(file: Path) -> Revision | None:
    """The revision that was kept; ``None`` where there is none that can be read, and it is made again."""
    try:
        return _REVISION.validate_json(file.read_bytes())
    except (OSError, ValueError):
        return None


def _write(file: Path, made: Revision) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, _REVISION.dump_json(made))


def _deployed(project: Project) -> Project:
    """The project without the API key that is generated for each test run."""
    own = project.server.api_key_env != GENERATED_KEY
    return project if own else replace(project, server=replace(project.server, api_key_env=""))


def _recorded(project: Project, release: Release, settings: DeploySettings) -> Project:
    """The project with the model that a release recorded; the name that clients use stays that of the configuration."""
    if not release.model or settings.target != "local":
        return project
    return replace(project, model=ModelSpec(served_name=project.model.served_name, ref=release.model))


def serving_of(
    project: Project, settings: DeploySettings, config: Mapping[str, Any], checkpoint: str, *, weights: str = ""
) -> Serving:
    """How servers of a project are started.

    Args:
        project: The project.
        settings: Of the channel's deployment.
        config: OCI configuration of the image.
        checkpoint: Folder of the model; empty when it is loaded by name.
        weights: Model that the release recorded.

    Raises:
        UsageError: The image cannot serve the protocol, or its servers cannot sleep.
    """
    server = replace(project.server, stop_grace_s=settings.drain_s)
    sleeps = _sleeps(project, settings)
    argv = serving.command(replace(project, server=server), config, checkpoint="{model}" if checkpoint else "")
    argv = _over_grpc(argv) if settings.protocol == "grpc" else argv
    return Serving(
        argv=(*argv, *(_SLEEP_FLAGS if sleeps else ())),
        env={**(_SLEEP_ENV if sleeps else {}), **server.env},
        secrets=serving.secrets(server),
        model=project.model.served_name,
        checkpoint=checkpoint,
        weights=weights,
        gpus=_gpus(server.gpus),
        memory_bytes=int(settings.memory_gib * 2**30),
        ready_timeout_s=server.ready_timeout_s,
        drain_s=settings.drain_s,
        sleeps=sleeps,
        protocol=settings.protocol,
    )


def _over_grpc(argv: Sequence[str]) -> tuple[str, ...]:
    if found := entry_point.over_grpc(argv):
        return found
    raise UsageError(
        f"the image's entry point cannot be made to serve gRPC: {' '.join(argv[:3])}",
        why="known are `vllm serve` and `python -m` with vLLM's own modules",
        remedy="write entrypoint: [vllm, serve] into the image's specification, or serve HTTP",
    )


def _sleeps(project: Project, settings: DeploySettings) -> bool:
    if settings.scale is None or not settings.scale.sleep:
        return False
    if settings.target != "local":
        raise UsageError(f"servers at target {settings.target} do not sleep", remedy="remove deploy.scale.sleep")
    if project.server.gpus == "none":
        raise UsageError(
            "deploy.scale.sleep needs servers with GPUs",
            why="vLLM's sleep mode frees the memory of GPUs, and server.gpus is `none`",
            remedy="remove deploy.scale.sleep: the last server is ended then",
        )
    return True


def _gpus(named: str) -> int:
    if named == "all":
        raise UsageError(
            "server.gpus is `all`, which does not say how many GPUs one server needs",
            remedy="list as many device numbers as one server needs, e.g. `gpus: '0,1'`",
        )
    return 0 if named == "none" else named.count(",") + 1


async def _here(
    loaded: Loaded,
    project: Project,
    setup: Setup,
    release: Release,
    config: Mapping[str, Any],
    checkpoint: str,
    *,
    emit: Emit,
) -> tuple[Project, str]:
    """The project fitted to this machine, and the folder of its model."""
    obtain.present(setup.repository, release.digest, access=setup.access, emit=emit)
    image = ImageRef(repository=setup.subject, digest=release.digest)
    async with HostEngine(port=0) as engine:
        folder = HostDirectory(loaded.folder)
        model = HostDirectory(loaded.folder / project.model.path) if project.model.path else None
        source = Source(commit=Commit(sha=release.commit), checkout=folder, project=folder, model=model)
        made = await serving.model(engine, project, source, image, emit)
        spec = loaded.config.image.image_spec(loaded.folder)
        fitted = await fitting.fitted(engine, project, made, image={"device": device.of(spec)}, config=config, emit=emit)
        return fitted, str(made.path) if isinstance(made, HostDirectory) else checkpoint
