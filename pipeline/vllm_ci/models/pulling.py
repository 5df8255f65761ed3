"""A model's files on this machine: from the repository, verified, kept by content, and shared between versions."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from vllm_ci.domain.errors import ErroredError, FailedError, UsageError
from vllm_ci.domain.events import Emit, ignore, step
from vllm_ci.evidence.statement import MODEL_SIGNATURE
from vllm_ci.models import evidence, history, reading
from vllm_ci.models.artifact import Layer, Model
from vllm_ci.models.files import digest_of_file
from vllm_ci.models.naming import ModelRef
from vllm_ci.models.record import ModelRecord
from vllm_ci.models.refusals import TamperedModelError
from vllm_ci.models.setup import ModelSetup
from vllm_ci.registry.errors import DigestError, NotFoundError
from vllm_ci.registry.layout import Layout
from vllm_ci.registry.manifest import Descriptor
from vllm_ci.registry.push_progress import PushProgress
from vllm_ci.registry.repository import OnBytes, Repository
from vllm_ci.registry.transfer import each_at_once
from vllm_ci.system.filelock import hold
from vllm_ci.system.home import home

# Bytes that were altered on the way are fetched this often.
_READS = 3


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """A model on this machine.

    Attributes:
        ref: What was asked for.
        record: The version that it is.
        model: What it is.
        folder: Its files; not to be written to.
        pulled_bytes: Fetched now.
        signer: Who signed it; empty when nobody who is trusted did.
        signature: The bundle of the model signature.
    """

    ref: ModelRef
    record: ModelRecord
    model: Model
    folder: Path
    pulled_bytes: int
    signer: str
    signature: bytes = b""

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints."""
        return {
            "model": self.record.model,
            "version": f"v{self.record.version}",
            "digest": self.record.digest,
            "folder": str(self.folder),
            "size_bytes": self.model.size_bytes,
            "pulled_bytes": self.pulled_bytes,
            "signer": self.signer,
        }


def pull(setup: ModelSetup, ref: ModelRef, *, now: datetime | None = None, emit: Emit = ignore) -> Pulled:
    """The files of a version, in the cache of this machine. The signature is verified first, then every file.

    Args:
        setup: Repository and ledger.
        ref: Which version.
        now: The present.
        emit: Told of each step.

    Raises:
        UsageError: There is no such version.
        FailedError: Nobody who is trusted signed it.
        TamperedModelError: A file in the repository is not what the manifest says.
        RegistryError: The registry broke or refused.
    """
    record = history.find(setup.ledger.read(), ref)
    with setup.open() as repository, step(emit, "model", f"{record.model}@v{record.version}") as done:
        model = reading.recorded(repository, record)
        found = evidence.findings(setup, repository, model, now=now or datetime.now(UTC))
        signatures = found.of(MODEL_SIGNATURE)
        if not signatures:
            raise FailedError(
                f"{record.model}@v{record.version} has no valid signature",
                why="; ".join(sorted({each.message for each in found.refused.values()})) or "nothing is attached to it",
                remedy="add its signer to release.signers if you trust it, or add the model again",
            )
        bundle = evidence.signature_bundle(repository, model, found)
        folder, fetched = _kept(
            repository, model, parallel=setup.access.parallel, told=PushProgress(emit, "model", verb="fetched")
        )
        done(f"{fetched / 1e6:,.1f} MB fetched" if fetched else "in the cache")
    return Pulled(
        ref=ref,
        record=record,
        model=model,
        folder=folder,
        pulled_bytes=fetched,
        signer=signatures[-1].signer,
        signature=bundle.bundle if bundle else b"",
    )


def copy_to(pulled: Pulled, target: Path) -> None:
    """Copy a model's files to a folder that is new or empty; it appears whole.

    Raises:
        UsageError: Something is there already, or it cannot be written.
    """
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UsageError(f"{target} exists and is not an empty folder", remedy="name another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=target.parent, prefix=".part-"))
        try:
            for layer in pulled.model.layers:
                place = part / layer.path
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(pulled.folder / layer.path, place)
            part.chmod(0o755)
            part.rename(target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error}", remedy="name another folder") from error


def forget(folder: Path) -> None:
    """Delete a model's files from the cache; they can be fetched again.

    Args:
        folder: As :attr:`Pulled.folder`.

    Raises:
        LockedError: Another process fetches it now.
        ErroredError: It cannot be deleted.
    """
    with hold(folder.parent / f".{folder.name}.lock", timeout_s=0):
        try:
            blobs = folder.parent.parent / "blobs" / "sha256"
            inodes = {each.stat().st_ino for each in folder.rglob("*") if each.is_file()}
            shutil.rmtree(folder)
            _seal(folder).unlink(missing_ok=True)
            for blob in blobs.glob("*"):
                status = blob.stat()
                if status.st_ino in inodes and status.st_nlink == 1:
                    blob.unlink(missing_ok=True)
        except OSError as error:
            raise ErroredError(
                f"{folder} cannot be deleted: {error.strerror}", remedy="make the folder writable, then run it again"
            ) from error


def _kept(repository: Repository, model: Model, *, parallel: int, told: OnBytes) -> tuple[Path, int]:
    """The folder of a model in the cache, whole and verified, and how many bytes were fetched for it."""
    cache = home() / "models"
    folder = cache / "trees" / model.digest.removeprefix("sha256:")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with hold(folder.parent / f".{folder.name}.lock"):
        if _is_intact(folder, model):
            os.utime(folder)  # it was used
            return folder, 0
        store, fetched = Layout(cache), list[int]()
        layers = {each.digest: each for each in model.layers}
        calls = [partial(_fetch, repository, store, layer, told, fetched) for layer in layers.values()]
        each_at_once(parallel, calls)
        _link(store, folder, model)
        return folder, sum(fetched)


def _fetch(repository: Repository, store: Layout, layer: Layer, told: OnBytes, fetched: list[int]) -> None:
    """Bring one file into the store; one that is there and was altered is fetched again."""
    place = store.find(layer.digest)
    if place is not None:
        if digest_of_file(place) == layer.digest:
            return
        place.unlink()
    descriptor = Descriptor(media_type="", digest=layer.digest, size=layer.size)
    for read in range(1, _READS + 1):
        try:
            store.put_blob(descriptor, lambda start: repository.read_blob(layer.digest, start), on_bytes=told)
        except (DigestError, NotFoundError) as error:
            if isinstance(error, DigestError) and read < _READS:
                continue  # altered on the way, perhaps
            what = "is missing" if isinstance(error, NotFoundError) else "was altered"
            raise TamperedModelError(
                f"{layer.path} {what} in {repository.name}",
                why=error.message,
                remedy="do not use this version; add the model again from its source",
            ) from error
        fetched.append(layer.size)
        return


def _link(store: Layout, folder: Path, model: Model) -> None:
    """The model's files under their names, as links to the store; the folder appears whole."""
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
    try:
        for layer in model.layers:
            blob, place = store.path / "blobs" / "sha256" / layer.digest.removeprefix("sha256:"), part / layer.path
            place.parent.mkdir(parents=True, exist_ok=True)
            blob.chmod(0o444)
            try:
                os.link(blob, place)
            except OSError:  # a file system without hard links
                shutil.copyfile(blob, place)
        part.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    _seal(folder).write_text(json.dumps(_states(folder, model)), encoding="utf-8")


def _is_intact(folder: Path, model: Model) -> bool:
    """Whether the files are there and nothing wrote to them since they were verified; if in doubt they are read again."""
    try:
        states = _states(folder, model)
        with suppress(FileNotFoundError, ValueError):
            if json.loads(_seal(folder).read_text(encoding="utf-8")) == states:
                return True
        if any(digest_of_file(folder / layer.path) != layer.digest for layer in model.layers):
            return False
        _seal(folder).write_text(json.dumps(states), encoding="utf-8")
    except OSError:
        return False
    return True


def _states(folder: Path, model: Model) -> dict[str, list[int]]:
    """What changes when someone writes to a file, by path: a changed time cannot be set back."""
    found = {}
    for layer in model.layers:
        state = (folder / layer.path).stat(follow_symlinks=False)
        found[layer.path] = [state.st_size, state.st_ctime_ns, state.st_ino, state.st_mode]
    return found


def _seal(folder: Path) -> Path:
    """The file that says what the files of a folder looked like when they were verified."""
    return folder.parent / f"{folder.name}.json"
