"""Models from a registry of MLflow, by its own command line: it knows servers, stores and logins (``MLFLOW_TRACKING_URI``).

That is a program of the machine and no dependency: its requirements exclude the versions of packages that others need here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_ci.domain.errors import ConfigError, ErroredError, UsageError
from vllm_ci.domain.events import Emit, step
from vllm_ci.models.refusals import UnsafeModelError
from vllm_ci.system import external, scratch, yaml_file

_URI = re.compile(r"models:/[^\s/@:]+(/[0-9]+|@[^\s/@:]+)")
_TIMEOUT_S = 24 * 3600.0
_PROGRAM = "mlflow"
# Written beside a model to describe how MLflow runs it; a checkpoint has no use for them.
_DESCRIBING = (
    *("MLmodel", "registered_model_meta", "conda.yaml", "python_env.yaml", "requirements.txt"),
    *("input_example.json", "serving_input_example.json", "model_card_data.yaml"),
)


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """A model of a registry on this machine.

    Attributes:
        folder: Its files.
        uri: As it was asked for.
        version: That the registry gave; the same as asked for, unless that was an alias.
    """

    folder: Path
    uri: str
    version: str


def check(uri: str) -> str:
    """``uri`` itself.

    Raises:
        UsageError: It names no version of a registered model.
    """
    if not _URI.fullmatch(uri):
        raise UsageError(
            f"not a model of a registry of MLflow: {uri!r}", remedy="write models:/NAME/VERSION, or models:/NAME@ALIAS"
        )
    return uri


@contextmanager
def downloaded(uri: str, *, emit: Emit) -> Iterator[Downloaded]:
    """The files of a registered model, until the context ends.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        emit: Told of each step.

    Raises:
        UsageError: MLflow is not installed, or the model is no checkpoint.
        ErroredError: The registry cannot be reached, or has no such model.
        UnsafeModelError: The description of the model names a folder outside of it.
    """
    check(uri)
    with scratch.folder("mlflow-") as made:
        place = made / "model"
        place.mkdir()
        with step(emit, "download", uri) as done:
            found = external.run(
                [_PROGRAM, "artifacts", "download", "--artifact-uri", uri, "--dst-path", str(place)],
                what="mlflow artifacts download",
                deadline_s=_TIMEOUT_S,
                only_tail=True,
                missing="install it by itself: pipx install mlflow-skinny, with the packages of your store (such as boto3)",
                remedy="check MLFLOW_TRACKING_URI and the network",
            )
            if found.exit_code:
                raise ErroredError(
                    f"MLflow does not give {uri}",
                    why=found.tail(1),
                    remedy="check MLFLOW_TRACKING_URI, its credentials, and the name and version of the model",
                )
            done(f"{sum(each.stat().st_size for each in place.rglob('*') if each.is_file()) / 1e6:,.1f} MB")
        root = _root(place)
        meta = _described(root / "registered_model_meta")
        yield Downloaded(folder=_checkpoint(root), uri=uri, version=str(meta.get("model_version") or uri.rpartition("/")[2]))


def _root(place: Path) -> Path:
    """Where the model begins: some stores give its folder, others what is in it."""
    inside = list(place.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() and not inside[0].is_symlink() else place


def _described(file: Path) -> Mapping[str, Any]:
    if file.is_symlink() or not file.is_file():
        return {}
    try:
        return yaml_file.read(file).data
    except ConfigError as error:
        raise UsageError(
            f"{file.name} of the model cannot be read", why=error.message, remedy="register the model again"
        ) from error


def _checkpoint(root: Path) -> Path:
    """The folder of the checkpoint: as logged, or put together from the parts of the flavor `transformers`."""
    flavors = _described(root / "MLmodel").get("flavors")
    flavor = flavors.get("transformers") if isinstance(flavors, dict) else None
    if not isinstance(flavor, dict):
        for name in _DESCRIBING:
            (root / name).unlink(missing_ok=True)
        return root
    folder = _part(root, flavor.get("model_binary") or "model")
    components = flavor.get("components")
    for name in components if isinstance(components, list) else ():
        for each in sorted(_part(root / "components", name).iterdir()):
            if not (folder / each.name).exists():  # the weights' own files come first
                each.rename(folder / each.name)
    return folder


def _part(above: Path, name: object) -> Path:
    place = above / str(name)
    if not isinstance(name, str) or place.parent != above or name in ("", ".", "..") or place.is_symlink():
        raise UnsafeModelError(
            f"MLmodel names a part outside of the model: {name!r}", remedy="do not use it; register the model again"
        )
    if not place.is_dir():
        raise UsageError(
            f"the model of MLflow has no folder {name}",
            why="the flavor `transformers` with save_pretrained=False keeps a name of the hub in place of weights",
            remedy="log it with its weights, or add it from the hub: --hub ORG/NAME@REVISION",
        )
    return place
