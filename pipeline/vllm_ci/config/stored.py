"""Models and results of retrainings in ``VLLM_CI_HOME``: how large they are, who names them, and the deletion of old ones."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vllm_ci.config.load import Loaded
from vllm_ci.domain.errors import ErroredError
from vllm_ci.models import history, pulling, trained
from vllm_ci.retraining import store as results
from vllm_ci.system.filelock import LockedError
from vllm_ci.system.home import home

_DAY_S = 86400.0
_RETRAINS = re.compile(r"vllm[_-]ci\S* (?:\S+ )?retrain\b")
KINDS = ("models", "retraining")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A model or the result of a step.

    Attributes:
        kind: ``models`` or ``retraining``.
        path: Its folder.
        size_bytes: Of its files.
        used: When it was last used (seconds since the epoch).
        named_by: Aliases, deployments and runs that name it: it will be needed again.
        used_by: Processes that use it now.
    """

    kind: str
    path: Path
    size_bytes: int
    used: float
    named_by: tuple[str, ...] = ()
    used_by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Deleted:
    """What came of a deletion.

    Attributes:
        deleted: What is gone, or would be.
        kept: What stays although it is old.
        freed_bytes: On disk, with files that no model needs any more.
    """

    deleted: tuple[Stored, ...] = ()
    kept: tuple[Stored, ...] = ()
    freed_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class _Names:
    """Where a folder of models or results can be named."""

    texts: dict[str, str] = field(default_factory=dict)
    digests: dict[str, list[str]] = field(default_factory=dict)

    def of(self, text: str, digest: str) -> tuple[str, ...]:
        return (*self.digests.get(digest, ()), *(name for name, content in self.texts.items() if text in content))


def everything(loaded: Loaded | None = None) -> list[Stored]:
    """All there is.

    Args:
        loaded: A project, whose aliases and runs are looked at; deployments are those of all projects.

    Raises:
        RegistryError: The registry with the project's models broke or refused.
    """
    names = _names(loaded)
    commands = dict(_commands())
    return [*_models(names, commands), *_results(names, commands)]


def old(found: Iterable[Stored], *, older_than_days: float) -> list[Stored]:
    """Those that were not used for so long."""
    since = time.time() - older_than_days * _DAY_S
    return [each for each in found if each.used < since]


def delete(chosen: Sequence[Stored], kept: Sequence[Stored], *, dry_run: bool) -> Deleted:
    """Delete them, unless somebody is making or using them at this moment.

    Raises:
        ErroredError: Something cannot be deleted.
    """
    gone, busy = [], []
    for each in chosen:
        try:
            if not dry_run:
                (results.delete if each.kind == "retraining" else pulling.forget)(each.path)
            gone.append(each)
        except LockedError:
            busy.append(each)
    freed = sum(each.size_bytes for each in gone)
    if not dry_run:
        _sweep()
    return Deleted(deleted=tuple(gone), kept=(*kept, *busy), freed_bytes=freed)


def _models(names: _Names, commands: dict[str, str]) -> Iterator[Stored]:
    for path in _folders(home() / "models" / "trees"):
        users = tuple(name for name, command in commands.items() if str(path) in command)
        named = names.of(path.name, f"sha256:{path.name}")
        yield Stored(kind="models", path=path, size_bytes=_size(path), used=path.stat().st_mtime, named_by=named, used_by=users)


def _results(names: _Names, commands: dict[str, str]) -> Iterator[Stored]:
    # A retraining reads results of its earlier steps at any time.
    users = tuple(name for name, command in commands.items() if _RETRAINS.search(command))
    for step in _folders(home() / "retraining"):
        for path in _folders(step):
            digest = results.digest_of(path / "files") if names.digests and step.name == results.DATA_STEP else ""
            record = path / "step.json"
            used = (record if record.exists() else path).stat().st_mtime
            named = tuple(names.digests.get(digest, ()))
            yield Stored(kind="retraining", path=path, size_bytes=_size(path), used=used, named_by=named, used_by=users)


def _folders(place: Path) -> list[Path]:
    return sorted(each for each in place.iterdir() if each.is_dir() and not each.name.startswith(".")) if place.is_dir() else []


def _names(loaded: Loaded | None) -> _Names:
    texts = {f"deployment {each.parent.parent.name}": _text(each) for each in (home() / "deploy").glob("*/target/state.json")}
    if loaded is None:
        return _Names(texts=texts)
    for each in sorted((loaded.folder / ".vllm-ci" / "runs").glob("*/report.json")):
        texts[f"run {each.parent.name}"] = _text(each)
    return _Names(texts=texts, digests=_aliased(loaded))


def _aliased(loaded: Loaded) -> dict[str, list[str]]:
    """Aliases by the digests of the models that they point to, and of the data that those were trained on."""
    from vllm_ci.config import models, releases

    setup = models.of(releases.of(loaded))
    records = setup.ledger.read()
    found: dict[str, list[str]] = {}
    for model in history.names(records):
        pointing = history.aliases(records, model)
        for record in history.versions(records, model):
            if aliases := [f"{model}@{name}" for name, version in pointing.items() if version == record.version]:
                data = trained.of(setup, record).data.values()
                for digest in (record.digest, *data):
                    found.setdefault(digest, []).extend(aliases)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _commands() -> Iterator[tuple[str, str]]:
    """Command lines of processes that may be looked at: servers name the folder of their model."""
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        if each.parent.name != str(os.getpid()):
            yield f"process {each.parent.name}", _text(each).replace("\0", " ")


def _size(path: Path) -> int:
    return sum(each.lstat().st_size for each in path.rglob("*") if each.is_file() and not each.is_symlink())


def _sweep() -> None:
    """Delete what killed processes left, and files of models that no model has any more."""
    before = time.time() - _DAY_S
    for step in _folders(home() / "retraining"):
        for each in [*step.glob(".*.part"), *step.glob(".*.kept")]:
            place = step / each.name[1:].rpartition(".")[0]
            if not place.exists() and each.stat().st_mtime < before:
                try:
                    results.delete(place)
                except LockedError:
                    continue
    try:
        for blob in (home() / "models" / "blobs" / "sha256").glob("*"):
            status = blob.stat()
            if status.st_nlink == 1 and status.st_ctime < before:
                blob.unlink(missing_ok=True)
        for part in (home() / "models" / "trees").glob(".part-*"):
            if part.stat().st_mtime < before:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise ErroredError(
            f"{error.filename} cannot be deleted: {error.strerror}", remedy="make the folder writable, then run it again"
        ) from error
