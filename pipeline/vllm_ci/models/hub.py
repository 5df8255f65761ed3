"""Models from a hub that speaks Hugging Face's HTTP API, through its own client (the extra ``hub``): any ``HF_ENDPOINT``.

Only files that models are made of are fetched, so a repository that offers pickles beside safetensors can be used. Each file is
compared with the digest that the hub's own listing of the commit gives.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vllm_ci.domain.errors import ConfigError, ErroredError, UsageError
from vllm_ci.domain.events import Emit, step
from vllm_ci.models.files import digest_of_file, kind_of
from vllm_ci.models.refusals import TamperedModelError, UnsafeModelError
from vllm_ci.system.filelock import hold
from vllm_ci.system.home import home

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """A model of a hub.

    Attributes:
        name: ``ORG/NAME``.
        revision: Branch, tag or commit.
    """

    name: str
    revision: str


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """A model of a hub on this machine.

    Attributes:
        folder: Its files.
        commit: The commit that the revision meant.
        url: Of the model.
        licence: As the hub says; empty when it does not.
    """

    folder: Path
    commit: str
    url: str
    licence: str


def parse(text: str) -> HubModel:
    """``ORG/NAME@REVISION``.

    Raises:
        UsageError: It is not.
    """
    name, _, revision = text.partition("@")
    if not _NAME.fullmatch(name) or not revision or revision.startswith("-"):
        raise UsageError(
            f"not a model of a hub with its revision: {text!r}", remedy="write ORG/NAME@REVISION; a commit is best, main works"
        )
    return HubModel(name=name, revision=revision)


@contextmanager
def downloaded(wanted: HubModel, *, code: bool = False, emit: Emit) -> Iterator[Downloaded]:
    """The files of a model, verified; what was fetched stays for the next try when the context ends with an error.

    Args:
        wanted: Which model.
        code: Fetch Python files as well.
        emit: Told of each step.

    Raises:
        ConfigError: The hub's client is not installed.
        UsageError: There is no such model or revision, or this account may not read it.
        ErroredError: The hub cannot be reached.
        TamperedModelError: A file is not what the hub's listing says.
        UnsafeModelError: The listing has a file outside the model's folder.
    """
    client = _client()
    with step(emit, "hub", f"{wanted.name}@{wanted.revision}") as done:
        info = _asked(wanted, lambda: client.HfApi().model_info(wanted.name, revision=wanted.revision, files_metadata=True))
        if not re.fullmatch(r"[0-9a-f]{40}", info.sha or ""):
            raise ErroredError(f"the hub gives no commit for {wanted.name}@{wanted.revision}", remedy="check HF_ENDPOINT")
        files = [each for each in info.siblings or () if _is_wanted(each.rfilename, code=code)]
        for each in files:
            _check_path(each.rfilename)
        done(f"{info.sha[:12]}, {len(files)} of {len(info.siblings or ())} files")
    if not any(each.rfilename.endswith((".safetensors", ".gguf")) for each in files):
        raise UsageError(
            f"{wanted.name} has no safetensors or GGUF file at {wanted.revision}",
            why="other formats run code when they are loaded",
            remedy="choose another revision or model, or convert it and add the folder",
        )
    folder = home() / "hub" / f"{wanted.name.replace('/', '--')}@{info.sha}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with hold(folder.parent / f".{folder.name}.lock"):
        with step(emit, "download", wanted.name) as done:
            for each in files:
                _fetch(client, wanted, info.sha, folder, each)
            done(f"{sum((folder / each.rfilename).stat().st_size for each in files) / 1e6:,.1f} MB")
        card = getattr(info, "card_data", None)
        licence = str((card.get("license") if card else "") or "")
        yield Downloaded(folder=folder, commit=info.sha, url=f"{client.HfApi().endpoint}/{wanted.name}", licence=licence)
        shutil.rmtree(folder, ignore_errors=True)


def _client() -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ConfigError(
            "models of a hub need the package huggingface-hub", why=str(error), remedy="install vllm-ci[hub]"
        ) from error


def _is_wanted(path: str, *, code: bool) -> bool:
    hidden = any(part.startswith(".") for part in path.split("/"))
    kind = kind_of(path)
    return not hidden and kind is not None and (kind != "code" or code)


def _check_path(path: str) -> None:
    """The name of a file is a place in the model's folder."""
    if PurePosixPath(path).is_absolute() or str(PurePosixPath(path)) != path or "\\" in path:
        raise UnsafeModelError(
            f"the hub lists a file outside the model's folder: {path!r}",
            remedy="check HF_ENDPOINT: the hub or a mirror is broken or hostile",
        )


def _fetch(client: Any, wanted: HubModel, commit: str, folder: Path, file: Any) -> None:
    """One file; one that is there from an earlier try is checked, and fetched again if it differs."""
    place = folder / file.rfilename
    for again in (False, True):
        _asked(
            wanted,
            lambda force=again: client.hf_hub_download(
                wanted.name, file.rfilename, revision=commit, local_dir=folder, force_download=force
            ),
        )
        if _matches(place, file):
            return
    raise TamperedModelError(
        f"{file.rfilename} of {wanted.name} is not the file that the hub lists for {commit[:12]}",
        why="its digest differs",
        remedy="try again; if it happens again, the hub or a mirror is broken",
    )


def _matches(place: Path, file: Any) -> bool:
    if file.lfs is not None:
        return bool(digest_of_file(place) == f"sha256:{file.lfs.sha256}")
    content = place.read_bytes()
    # A file that is in git itself is listed by the id of its git object.
    return bool(hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == file.blob_id)  # noqa: S324


def _asked(wanted: HubModel, ask: Any) -> Any:
    """What the client gives, its errors as ours; they are known by the names of their types."""
    try:
        return ask()
    except Exception as error:
        kinds = {each.__name__ for each in type(error).__mro__}
        what, said = f"{wanted.name}@{wanted.revision}", str(error).splitlines()[0] if str(error) else type(error).__name__
        if "GatedRepoError" in kinds or "DisabledRepoError" in kinds:
            raise UsageError(f"the hub refuses {what}", why=said, remedy="accept its terms, and set HF_TOKEN") from error
        if kinds & {"RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError", "HFValidationError"}:
            raise UsageError(f"the hub has no {what}", why=said, remedy="check the name and revision, and HF_TOKEN") from error
        if "OSError" in kinds or "HTTPError" in kinds:
            raise ErroredError(
                f"the hub does not give {what}", why=said, remedy="check HF_ENDPOINT, HF_TOKEN and the network, then try again"
            ) from error
        raise
