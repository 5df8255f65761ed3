"""Fit the server of a CPU image to its machine, for settings that the user leaves open."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vllm_ci.domain import cpu_serving, model_shape
from vllm_ci.domain.cpu_serving import CpuSettings, Machine
from vllm_ci.domain.errors import ErroredError
from vllm_ci.domain.events import Emit, Finished
from vllm_ci.domain.model_shape import ModelShape
from vllm_ci.domain.program import Directory, Program
from vllm_ci.domain.project import Project, ServerSpec
from vllm_ci.domain.vllm_flags import said
from vllm_ci.engine import Engine
from vllm_ci.programs import FOLDER as PROGRAMS

CPU = "cpu"


async def fitted(
    engine: Engine,
    project: Project,
    checkpoint: Directory | None,
    *,
    image: Mapping[str, Any],
    config: Mapping[str, Any],
    emit: Emit,
    step: str = "settings",
) -> Project:
    """The project with server settings computed for this machine; unchanged for images of other devices.

    Args:
        engine: Where the server will run.
        project: The project of the server.
        checkpoint: The model, if available.
        image: ``image`` from the build summary (``device``).
        config: OCI configuration of the image.
        emit: Called with what was computed.
        step: Name of the step.

    Raises:
        ErroredError: The machine's free memory could not be read.
    """
    if image.get("device") != CPU or project.server.gpus != "none":
        return project
    begun = time.monotonic()
    shape = None if checkpoint is None else await _shape(checkpoint)
    found = settings(project.server, shape, await _machine(engine), _environment(config))
    named = [*(f"{name}={value}" for name, value in found.env.items()), *found.args]
    emit(Finished(step=step, seconds=time.monotonic() - begun, detail=f"computed: {' '.join(named) or 'nothing'}"))
    server = project.server
    return replace(project, server=replace(server, args=(*found.args, *server.args), env={**found.env, **server.env}))


def settings(server: ServerSpec, shape: ModelShape | None, machine: Machine, image_env: Mapping[str, str]) -> CpuSettings:
    """Compute settings for a server; the image's environment counts as set by the user, and the server's overrides it."""
    return cpu_serving.compute(shape, machine, said(server.args, {**image_env, **server.env}, server.secrets))


def machine(found: Mapping[str, int]) -> Machine:
    """Read the output of ``programs/machine.py``."""
    return Machine(memory_bytes=found["memory_bytes"], cores=found["cores"])


async def _machine(engine: Engine) -> Machine:
    outcome = await engine.run(
        Program(
            name="machine",
            argv=("python", "{in.programs}/machine.py", "{out}"),
            inputs={"programs": engine.directory(PROGRAMS)},
            timeout_s=60,
        )
    )
    if not outcome:
        raise ErroredError(
            "the free memory of the machine could not be read", why=outcome.log.strip()[-500:], remedy="vllm-ci doctor"
        )
    return machine(json.loads(await outcome.output.read("machine.json")))


async def _shape(checkpoint: Directory) -> ModelShape | None:
    """Shape of a checkpoint; ``None`` if its ``config.json`` is missing (GGUF) or invalid."""
    found: list[dict[str, Any]] = []
    for name in model_shape.FILES:
        content: object = None
        with contextlib.suppress(FileNotFoundError, ValueError):
            content = json.loads(await checkpoint.read(name))
        found.append(content if isinstance(content, dict) else {})
    return model_shape.of(*found)


def _environment(config: Mapping[str, Any]) -> dict[str, str]:
    return dict(entry.partition("=")[::2] for entry in config.get("config", {}).get("Env") or ())
