"""Loads and validates the configuration from the file, the environment and the command line, with the origin of each value.

Precedence: flag, environment variable, file, default.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vllm_ci.config import consistency, known, named_models, pipeline_file
from vllm_ci.config.pipeline_file import PipelineFile
from vllm_ci.config.project import ProjectConfig
from vllm_ci.config.stages import OwnStageConfig, StagesConfig, UnknownStage
from vllm_ci.domain.errors import ConfigError
from vllm_ci.domain.paths import InvalidPath
from vllm_ci.domain.project import Project
from vllm_ci.domain.stage import StageSpec
from vllm_ci.system import yaml_file
from vllm_ci.system.yaml_file import Document, Place

FILE_NAME = "vllm-ci.yaml"
GENERATED_KEY = "VLLM_CI_GENERATED_API_KEY"
"""Name of the variable with the API key that is generated for one run."""


@dataclass(frozen=True, kw_only=True)
class Override:
    """A value from outside the file.

    Attributes:
        value: Value in the document.
        origin: ``flag --port`` or ``environment VLLM_CI_PORT``.
    """

    value: object
    origin: str


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A configuration and where its values come from.

    Attributes:
        path: The file.
        config: The validated configuration.
        origins: Dotted key to ``flag ...``, ``environment ...`` or ``FILE:LINE``; absent keys have their default.
    """

    path: Path
    config: ProjectConfig
    origins: Mapping[str, str]

    @property
    def folder(self) -> Path:
        """Folder of the file; paths in the file are relative to it."""
        return self.path.parent

    @property
    def name(self) -> str:
        """The project's name."""
        return self.config.name or self.folder.name.lower()

    @property
    def pipeline(self) -> PipelineFile | None:
        """The user's own pipeline; ``None`` is the default one.

        Raises:
            ConfigError: The file that the configuration names does not exist.
        """
        return pipeline_file.find(self.folder, self.config.pipeline)

    def project(self, place: str, stages: tuple[str, ...] = (), *, own: Iterable[str] = ()) -> Project:
        """Convert to the pipeline's type.

        Args:
            place: Path of the file in the checkout.
            stages: Stages to run; by default those that are enabled in the configuration.
            own: Names of the stages that the user's pipeline defines in Python.

        Raises:
            ConfigError: There is no such stage.
            UsageError: The stage needs a server that the pipeline does not start.
        """
        specs = self._specs()
        names = (*specs, *own)
        if unknown := [name for name in stages if name not in names]:
            near = difflib.get_close_matches(unknown[0], names, n=1, cutoff=0.5)
            remedy = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names)}"
            raise ConfigError(f"unknown stage: {unknown[0]}", remedy=remedy)
        from vllm_ci.stages import require_grpc

        require_grpc(specs[name] for name in stages if name in specs)
        server = self.config.server.domain()
        return Project(
            name=self.name,
            config=place,
            model=self.config.model.domain(),
            server=replace(server, api_key_env=GENERATED_KEY) if self.config.server.generate_api_key else server,
            stages=tuple(specs[name] for name in specs if name in (stages or self.config.stages.enabled())),
            known=tuple(specs.values()),
            selected=tuple(stages),
        )

    def _specs(self) -> dict[str, StageSpec]:
        """Every stage by name; accepted findings default to those for this project."""
        stages = self.config.stages
        specs = stages.specs()
        if "accept" not in stages.security.model_fields_set:
            accept = known.accepted(self.config.model, self.config.server)
            specs["security"] = replace(specs["security"], accept=accept)
        return specs

    def values(self) -> list[tuple[str, object, str]]:
        """Every value as (dotted key, value, origin)."""
        return [
            (key, value, self.origins.get(key, "default"))
            for key, value in _flat(self.config.model_dump(mode="json", by_alias=True), "")
        ]


def find(start: Path) -> Path:
    """``vllm-ci.yaml`` in ``start`` or the nearest folder above it.

    Raises:
        ConfigError: There is none.
    """
    for folder in (start, *start.parents):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    raise ConfigError(
        f"no {FILE_NAME} in {start} or above it",
        why="this file configures what a project builds and tests",
        remedy="create one (the line `version: 1` is enough), or name one with --config",
    )


def load(path: Path, overrides: Mapping[str, Override] | None = None) -> Loaded:
    """Read and validate ``path``; ``overrides`` (by dotted key) replace its values.

    Raises:
        ConfigError: It cannot be parsed or is not valid; the message has the file, the line and the nearest known name.
    """
    read = yaml_file.read(
        path, absent="name a configuration file with --config or VLLM_CI_CONFIG", see="see docs/configuration.md"
    )
    data = copy.deepcopy(read.data)
    origins = {".".join(map(str, place)): f"{path}:{line}" for place, line in read.lines.items() if not _in_list(place)}
    for key, override in (overrides or {}).items():
        _set(data, key, override.value)
        origins[key] = override.origin
    try:
        config = ProjectConfig.model_validate(data)
    except ValidationError as error:
        raise explained(error, read, origins) from error
    for problem in consistency.problems(config, stages=_python_stages(path.parent, config)):
        key = ".".join(map(str, problem.place))
        raise ConfigError(f"{_where(read, origins, problem.place)}: {key} is not valid", why=problem.why, remedy=problem.remedy)
    served, known_origins = named_models.applied(config, origins)
    return Loaded(path=path.absolute(), config=served, origins=known_origins)


def _python_stages(folder: Path, config: ProjectConfig) -> tuple[str, ...]:
    """Names of stages in the user's pipeline; a file that is named and missing is reported by whoever wants to run it."""
    try:
        found = pipeline_file.find(folder, config.pipeline)
    except ConfigError:
        return ()
    return found.stages if found is not None else ()


def _in_list(place: Place) -> bool:
    return any(isinstance(step, int) for step in place)


def _set(data: dict[str, Any], key: str, value: object) -> None:
    *above, last = key.split(".")
    for step in above:
        if not isinstance(data.get(step), dict):
            data[step] = {}
        data = data[step]
    data[last] = value


def _flat(value: object, key: str) -> list[tuple[str, object]]:
    if isinstance(value, dict) and value:
        return [pair for name, inner in value.items() for pair in _flat(inner, f"{key}.{name}" if key else str(name))]
    return [(key, value)]


def explained(
    error: ValidationError,
    read: Document,
    origins: Mapping[str, str],
    *,
    model: type[BaseModel] = ProjectConfig,
    see: str = "docs/configuration.md",
) -> ConfigError:
    """The first problem of a file that is not valid, with its line and the nearest known name.

    Args:
        error: All problems.
        read: The file.
        origins: Where values come from that are not in the file.
        model: What the file describes.
        see: Page that documents it.
    """
    first, *others = error.errors()
    place = tuple(first["loc"])
    # After the path of the value, pydantic appends the union member or the dictionary key that did not match.
    while place[:-1] in read.lines and place not in read.lines and first["type"] not in ("missing", "extra_forbidden"):
        place = place[:-1]
    key = ".".join(map(str, place))
    where = _where(read, origins, place)
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] == "extra_forbidden":
        known = _known(place[:-1], model)
        near = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]}?" if near else f"allowed keys: {', '.join(known)}" if known else "remove it"
        return ConfigError(f"{where}: unknown key {key}{more}", why="there is no such setting", remedy=remedy)
    if isinstance(stage := first.get("ctx", {}).get("error"), UnknownStage):
        where = _where(read, origins, (*place, stage.name))
        return ConfigError(f"{where}: stages.{stage.name} is not valid{more}", why=stage.why, remedy=stage.remedy)
    if isinstance(path := first.get("ctx", {}).get("error"), InvalidPath):
        return ConfigError(f"{where}: {key} is not valid{more}", why=path.why, remedy=path.remedy)
    return ConfigError(f"{where}: {key or 'the file'} is not valid{more}", why=_reason(first), remedy=f"see {see}")


def _where(read: Document, origins: Mapping[str, str], place: Place) -> str:
    """Origin of a value: an option, a variable, or a line of the file."""
    origin = origins.get(".".join(map(str, place)), "")
    return origin if origin and not origin.startswith(str(read.path)) else f"{read.path}:{read.line(place)}"


def _reason(detail: ErrorDetails) -> str:
    given = detail.get("input")
    shown = f" (it is {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{detail['msg'].removeprefix('Value error, ')}{shown}"


def _known(place: Place, root: type[BaseModel]) -> list[str]:
    """Names of the keys that are allowed at ``place``."""
    model: Any = root
    named = False  # the step is a name that the user chose
    for step in place:
        if named or isinstance(step, int) or not (isinstance(model, type) and issubclass(model, BaseModel)):
            named = False
            continue
        field = model.model_fields.get(str(step))
        extra = OwnStageConfig if model is StagesConfig else None
        named = field is not None and get_origin(field.annotation) is dict
        model = _model_in(field.annotation) if field else extra
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model ``X`` in ``X``, ``X | None``, ``list[X]`` or ``dict[str, X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _model_in(inner)) is not None:
            return found
    return None
