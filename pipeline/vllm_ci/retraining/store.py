"""Results of steps, each in a folder that is named by what the step was made from, in ``VLLM_CI_HOME/retraining``.

A result appears whole, is read and checked whenever it is used again, and is never replaced: other inputs have another folder.
Of two processes that want the same result, one makes it and the other waits; different results do not touch each other.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from vllm_ci.domain.errors import ErroredError, FailedError
from vllm_ci.evidence import strict
from vllm_ci.models.files import digest_of_file
from vllm_ci.system import filelock
from vllm_ci.system.home import home

DATA_STEP, ANSWERS_STEP = "data", "answers"
"""Steps whose results hold rows."""
_RECORD, _FILES, _DELETED = "step.json", "files", "deleted"
_FORMAT = "vllm-ci/retraining/v1"


class TamperedStepError(FailedError):
    """A file of a finished step has other bytes than when the step ended."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a step.

    Attributes:
        step: Its name.
        key: What it was made from, as hex digits.
        digest: Of its files: over their paths and digests.
        folder: Its files; not to be written to.
        facts: What the step says of itself.
        cached: It was there already.
    """

    step: str
    key: str
    digest: str
    folder: Path
    facts: Mapping[str, Any]
    cached: bool

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints."""
        return {"step": self.step, "digest": self.digest, "folder": str(self.folder), "cached": self.cached}


Make = Callable[[Path, Path], Awaitable[Mapping[str, Any]]]
"""Makes a result: gets the empty folder for its files and a folder that survives an interruption, and returns facts."""


def key_of(step: str, inputs: Mapping[str, object]) -> str:
    """Hex digits that stand for everything that a step is made from."""
    return hashlib.sha256(strict.canonical({"format": _FORMAT, "step": step, "inputs": inputs})).hexdigest()


def digest_of(folder: Path) -> str:
    """Digest of all files below a folder, by their paths and contents."""
    return _over(_digests(folder))


async def result(step: str, inputs: Mapping[str, object], make: Make, *, waiting: Callable[[str], None]) -> Result:
    """The result of a step, made now unless it is there.

    Args:
        step: Its name.
        inputs: Everything that it depends on, as plain data.
        make: Makes it.
        waiting: Called once with a text while another process makes the same result.

    Raises:
        TamperedStepError: It is there, and files of it were altered.
        ErroredError: The folder cannot be written.
    """
    key = key_of(step, inputs)
    place = home() / "retraining" / step / key
    async with _held(place.with_name(f".{key}.lock"), waiting):
        if (place / _RECORD).is_file() and not (place / _DELETED).exists():
            return await anyio.to_thread.run_sync(partial(read, place, step=step, key=key))
        return await _made(place, step, key, inputs, make)


async def _made(place: Path, step: str, key: str, inputs: Mapping[str, object], make: Make) -> Result:
    """Make a result beside its place, and move it there as a whole."""
    part, kept = (place.with_name(f".{key}.{name}") for name in ("part", "kept"))
    try:
        for each in (place, part):
            shutil.rmtree(each, ignore_errors=True)
        (part / _FILES).mkdir(parents=True)
        kept.mkdir(exist_ok=True)
        facts = dict(await make(part / _FILES, kept))
        digests = await anyio.to_thread.run_sync(_digests, part / _FILES)
        record = {"format": _FORMAT, "step": step, "inputs": inputs, "facts": facts, "files": digests}
        (part / _RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        part.rename(place)
        shutil.rmtree(kept, ignore_errors=True)
    except OSError as error:
        if error.filename and not Path(str(error.filename)).is_relative_to(place.parent):
            raise  # a file that the step reads
        raise ErroredError(
            f"the result of {step} cannot be kept in {place.parent}",
            why=str(error),
            remedy="free some space, or set VLLM_CI_HOME to another folder",
        ) from error
    return Result(step=step, key=key, digest=_over(digests), folder=place / _FILES, facts=facts, cached=False)


def read(place: Path, *, step: str, key: str) -> Result:
    """A result that is there, after all of its files were compared with its record.

    Raises:
        TamperedStepError: Some are others, missing or new.
    """
    try:
        record = json.loads((place / _RECORD).read_bytes())
        expected, facts, inputs = dict(record["files"]), dict(record["facts"]), record["inputs"]
        problem = "" if key_of(step, inputs) == key else "step.json names other inputs"
    except (OSError, ValueError, LookupError, TypeError) as error:
        expected, facts, problem = {}, {}, f"step.json cannot be read: {error}"
    found = _digests(place / _FILES)
    differing = sorted(path for path in {*expected, *found} if expected.get(path) != found.get(path))
    if problem or differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise _tampered(place, step, problem or ", ".join(differing[:3]) + more)
    with suppress(OSError):
        os.utime(place / _RECORD)  # it was used
    return Result(step=step, key=key, digest=_over(found), folder=place / _FILES, facts=facts, cached=True)


def _tampered(place: Path, step: str, problem: str) -> TamperedStepError:
    return TamperedStepError(
        f"the result of {step} was altered: {problem}",
        why=f"the files in {place} are not those that the step wrote",
        remedy=f"do not use them; delete {place}, then run vllm-ci retrain again",
    )


def again(found: Result) -> None:
    """Check the files of a result once more, before something is decided with them.

    Raises:
        TamperedStepError: They were altered since, perhaps together with the record that lists them.
    """
    place = found.folder.parent
    if read(place, step=found.step, key=found.key).digest != found.digest:
        raise _tampered(place, found.step, f"its files are not those with the digest {found.digest[:19]}")


def with_digest(step: str, digest: str) -> Result | None:
    """The finished result of a step whose files have this digest, checked.

    Raises:
        TamperedStepError: Files of it were altered.
    """
    found = (each for each in _finished(step) if not (each / _DELETED).exists())
    place = next((each for each in found if _over(_recorded(each)["files"]) == digest), None)
    return None if place is None else read(place, step=step, key=place.name)


def holding(digests: Collection[str]) -> list[Path]:
    """Results with rows of these data sets, also half deleted ones: copies of prepared data, and answers to their rows."""
    found = {place: _recorded(place) for step in (DATA_STEP, ANSWERS_STEP) for place in _finished(step)}
    data = {place for place, record in found.items() if set(_values(record["inputs"].get("versions"))) & set(digests)}
    copied = {_over(found[place]["files"]) for place in data}
    asked = {place for place, record in found.items() if record["inputs"].get("data") in copied}
    return sorted(data | asked)


def delete(place: Path) -> None:
    """Delete a result, or what is left of one that nobody makes any more.

    Its record goes last: should this be interrupted, it still says whose rows the remaining files hold.

    Raises:
        LockedError: Another process makes it.
        ErroredError: It cannot be deleted.
    """
    with filelock.hold(place.with_name(f".{place.name}.lock"), timeout_s=0):
        try:
            if place.exists():
                (place / _DELETED).touch()
                if (place / _FILES).exists():
                    shutil.rmtree(place / _FILES)
                shutil.rmtree(place)
        except OSError as error:
            raise ErroredError(
                f"{place} cannot be deleted: {error.strerror}", remedy="make the folder writable, then run it again"
            ) from error
        for name in ("part", "kept"):
            shutil.rmtree(place.with_name(f".{place.name}.{name}"), ignore_errors=True)


def delete_parts() -> None:
    """Delete what killed processes left of results with rows; nothing says any more whose rows they are."""
    for step in (DATA_STEP, ANSWERS_STEP):
        for part in sorted((home() / "retraining" / step).glob(".*.part")):
            with suppress(filelock.LockedError), filelock.hold(part.with_suffix(".lock"), timeout_s=0):
                shutil.rmtree(part, ignore_errors=True)


def _finished(step: str) -> list[Path]:
    folder = home() / "retraining" / step
    return sorted(each.parent for each in folder.glob(f"[0-9a-f]*/{_RECORD}"))


def _recorded(place: Path) -> dict[str, Any]:
    try:
        record = json.loads((place / _RECORD).read_bytes())
        return {"inputs": dict(record["inputs"]), "files": dict(record["files"])}
    except (OSError, ValueError, LookupError, TypeError):
        return {"inputs": {}, "files": {}}


def _values(found: object) -> list[str]:
    return [str(each) for each in found.values()] if isinstance(found, Mapping) else []


def _digests(folder: Path) -> dict[str, str]:
    """Digest of each file by its path; a link counts as what it is, not as the file that it leads to."""
    found = {}
    for place in sorted(folder.rglob("*")):
        if place.is_symlink():
            found[place.relative_to(folder).as_posix()] = f"link to {place.readlink()}"
        elif place.is_file():
            found[place.relative_to(folder).as_posix()] = digest_of_file(place)
    return found


def _over(digests: Mapping[str, str]) -> str:
    return "sha256:" + hashlib.sha256(strict.canonical(dict(digests))).hexdigest()


@asynccontextmanager
async def _held(lock: Path, waiting: Callable[[str], None]) -> AsyncIterator[None]:
    """Hold a lock file, without blocking the event loop while another process holds it."""
    try:
        handle = filelock.take(lock, timeout_s=0)
    except filelock.LockedError:
        waiting(f"waiting for {', '.join(filelock.holders(lock)) or 'another process'}, which makes the same")
        handle = await _patiently(lock)
    try:
        yield
    finally:
        os.close(handle)


async def _patiently(lock: Path) -> int:
    while True:
        await anyio.sleep(0.5)
        try:
            return filelock.take(lock, timeout_s=0)
        except filelock.LockedError:
            continue
