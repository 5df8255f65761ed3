"""Image specs: ``NAME.yaml`` read into :class:`~vllm_ci.domain.image_spec.ImageSpec`."""

from __future__ import annotations

import dataclasses
import difflib
import platform
import typing
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.domain.image_spec import ImageSpec
from vllm_ci.domain.paths import nearest
from vllm_ci.images.spec_paths import normalised
from vllm_ci.system import yaml_file
from vllm_ci.system.yaml_file import Document, Place

_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def folders() -> tuple[Path, ...]:
    """Where shipped specs lie: in an installed package's data, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    return (package / "data" / "images", package.parent.parent / "images")


def shipped() -> tuple[str, ...]:
    """Names of the specs that come with the package."""
    return tuple(sorted({path.stem for folder in folders() for path in folder.glob("*.yaml")}))


def host_platform() -> str:
    """The platform of this machine (``linux/amd64``), in the words of the OCI image specification."""
    machine = platform.machine().lower()
    return f"linux/{_MACHINES.get(machine, machine)}"


def load(name_or_path: str | Path, *, targets: tuple[str, ...] = (), **changes: object) -> ImageSpec:
    """Read a spec by the name of a shipped one or by path.

    Args:
        name_or_path: ``cpu``, or the path of a YAML file (anything with a slash or ``.yaml``).
        targets: Platforms to build; by default that of this machine if the spec has it, else its first.
        **changes: Attributes of the spec that the caller's own configuration replaces.

    Raises:
        ConfigError: The file does not say what a spec must say.
        UsageError: There is no such spec.
    """
    path = find(name_or_path)
    read = yaml_file.read(path, see="start from one of the shipped specs: vllm-ci show cpu")
    content = {
        "name": path.stem,
        "variant": path.stem,
        "repository": path.stem,
        "wheels_lock": path.with_suffix(".lock"),
        "debs_lock": path.with_suffix(".debs.lock"),
        "targets": (),
        **read.data,
    }
    spec: ImageSpec = _convert(ImageSpec, content, (), read)
    return check(spec.changed(**changes, targets=targets or _default_targets(spec)), where=read)


def find(name_or_path: str | Path) -> Path:
    """The file of a spec.

    Args:
        name_or_path: As for :func:`load`.

    Raises:
        UsageError: There is no such spec.
    """
    text = str(name_or_path)
    if "/" in text or text.endswith((".yaml", ".yml")):
        candidates = [Path(text)]
    else:
        candidates = [folder / f"{text}.yaml" for folder in folders()]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.absolute()
    near = nearest(text, (*shipped(), *_beside(Path(text))))
    raise UsageError(
        f"no image spec {text}",
        why=f"shipped specs: {', '.join(shipped()) or 'none'}",
        remedy=f"did you mean {near[0]}?" if near else "name one of those, or give the path of a YAML file",
    )


def _beside(path: Path) -> list[str]:
    """YAML files of the directory that a path is about."""
    if "/" not in str(path) or not path.parent.is_dir():
        return []
    return [str(found) for found in path.parent.iterdir() if found.suffix in {".yaml", ".yml"}]


def _default_targets(spec: ImageSpec) -> tuple[str, ...]:
    own = host_platform()
    return (own if own in spec.platforms else spec.platforms[0],)


def check(spec: ImageSpec, *, where: Document | None = None) -> ImageSpec:
    """``spec`` with its paths normalised, when it makes sense.

    Args:
        spec: What to check.
        where: File that it was read from, if any, for messages.

    Raises:
        ConfigError: It does not.
    """
    if not spec.base.suite:
        raise ConfigError(
            f"spec {spec.name}: base.suite and base.packages are missing",
            why="the base is made of them; with base.image, their Python still compiles the byte code",
            remedy="add a Debian suite and packages, python among them",
        )
    if spec.base.image and "@sha256:" not in spec.base.image:
        raise ConfigError(
            f"spec {spec.name}: base.image {spec.base.image} is not pinned",
            why="a tag can change, so the same spec could give another image",
            remedy="write NAME@sha256:...",
        )
    if absent := [target for target in spec.targets if target not in spec.platforms]:
        raise ConfigError(
            f"spec {spec.name} is not locked for {', '.join(absent)}",
            why=f"it has {', '.join(spec.platforms)}",
            remedy="add the platform to the spec and run vllm-ci lock, or build one it has",
        )
    return normalised(spec, where)


def _convert(kind: Any, value: Any, place: Place, read: Document) -> Any:
    """``value`` as read from YAML, as ``kind``: the few shapes that specs are made of, and nothing else."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    result: Any = None
    if dataclasses.is_dataclass(kind):
        result = _dataclass(typing.cast("type", kind), value, place, read)
    elif origin is tuple and isinstance(value, list | tuple):
        result = tuple(_convert(arguments[0], item, (*place, index), read) for index, item in enumerate(value))
    elif origin is Mapping and isinstance(value, dict):
        result = {str(key): _convert(arguments[1], item, (*place, str(key)), read) for key, item in value.items()}
    elif type(None) in arguments:
        return None if value is None else _convert(arguments[0], value, place, read)
    elif isinstance(kind, type):
        result = _scalar(kind, value, read.path)
    if result is None:
        raise ConfigError(
            f"{_where(read, place)}: {_key(place)} cannot be {value!r}", why=f"it has to be {getattr(kind, '__name__', kind)}"
        )
    return result


def _scalar(kind: Any, value: Any, path: Path) -> Any:
    if kind is Path:
        return value if isinstance(value, Path) else path.parent / str(value)
    if issubclass(kind, StrEnum):
        return kind(value) if value in list(kind) else None
    accepted = (int, float) if kind is float else kind
    return kind(value) if isinstance(value, accepted) and (kind is bool or not isinstance(value, bool)) else None


def _dataclass(kind: type, value: Any, place: Place, read: Document) -> Any:
    if not isinstance(value, dict):
        raise ConfigError(f"{_where(read, place)}: {_key(place)} has to be a mapping, not {value!r}")
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    if unknown := [str(key) for key in value if key not in fields]:
        near = difflib.get_close_matches(unknown[0], fields, 1)
        raise ConfigError(
            f"{_where(read, (*place, unknown[0]))}: unknown key {_key((*place, unknown[0]))}",
            remedy=f"did you mean {near[0]}?" if near else f"known keys: {', '.join(fields)}",
        )
    if absent := [
        name
        for name, item in fields.items()
        if name not in value and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]:
        raise ConfigError(f"{_where(read, place)}: {_key((*place, absent[0]))} is missing", remedy=f"add {absent[0]}")
    return kind(**{name: _convert(hints[name], item, (*place, name), read) for name, item in value.items()})


def _where(read: Document, place: Place) -> str:
    return f"{read.path}:{read.line(place)}"


def _key(place: Place) -> str:
    return ".".join(map(str, place))
