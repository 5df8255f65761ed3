"""Values that are computed because the configuration does not set them, for ``vllm-ci config``."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_ci.config import known
from vllm_ci.config.load import Loaded
from vllm_ci.domain import model_shape
from vllm_ci.domain.errors import VllmCiError
from vllm_ci.domain.model_shape import ModelShape
from vllm_ci.domain.project import ModelSpec
from vllm_ci.images import device, spec_file
from vllm_ci.pipeline import fitting
from vllm_ci.programs.machine import facts

ORIGIN = "computed"


@dataclass(frozen=True, kw_only=True)
class Value:
    """A computed setting.

    Attributes:
        key: ``server.env.NAME``, ``server.args.--flag``, or a key of the configuration.
        value: The value that is used.
        reason: Why it has this value.
    """

    key: str
    value: object
    reason: str


def values(loaded: Loaded) -> list[Value]:
    """The values that a run on this machine would use now; a run measures the machine again when it starts a server."""
    return [*_pipeline(loaded), *_server(loaded), *_accepted(loaded)]


def _pipeline(loaded: Loaded) -> Iterator[Value]:
    if not loaded.config.pipeline and (found := loaded.pipeline) is not None:
        yield Value(key="pipeline", value=found.path.relative_to(loaded.folder).as_posix(), reason=found.why)


def _server(loaded: Loaded) -> Iterator[Value]:
    try:
        section = loaded.config.image
        image = spec_file.load(section.place(loaded.folder), targets=section.platforms)
    except VllmCiError:
        return  # the build reports errors in the spec
    if device.of(image) != fitting.CPU or loaded.config.server.gpus != "none":
        return
    shape = _shape(loaded.config.model.domain(), loaded.folder)
    environment = {**image.env, **section.env}
    found = fitting.settings(loaded.config.server.domain(), shape, fitting.machine(facts()), environment)
    for name, value in found.env.items():
        yield Value(key=f"server.env.{name}", value=value, reason=found.reasons[name])
    for name, value in found.flags.items():
        yield Value(key=f"server.args.--{name}", value=value, reason=found.reasons[name])


def _shape(model: ModelSpec, folder: Path) -> ModelShape | None:
    if model.tiny is not None:
        return model_shape.of_tiny(model.tiny)
    return model_shape.of(*(_content(folder / model.path / name) for name in model_shape.FILES)) if model.path else None


def _content(path: Path) -> Mapping[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _accepted(loaded: Loaded) -> Iterator[Value]:
    if "accept" in loaded.config.stages.security.model_fields_set:
        return
    entries = known.accepted(loaded.config.model, loaded.config.server)
    shown = [entry.entry() for entry in entries]
    reason = "known findings of vLLM itself, and of a server that runs only for the tests"
    yield Value(key="stages.security.accept", value=shown, reason=reason)
