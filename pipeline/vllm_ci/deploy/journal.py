"""The journal of a deployment: one file, written beside and renamed, so that a reader sees the old state or the new.

Folder of a deployment: ``deployment.json`` (the state), ``request.json`` (what a person asked of a running command),
``course.json`` (what was measured), ``comparison.json`` (of answers), ``needs.json`` (numbers of servers that were needed),
``lock`` (held by the command that changes the deployment), ``keep`` (held while an old release must not be ended),
``logs`` (of servers that were ended) and ``target`` (its files).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from vllm_ci.deploy.comparison import Comparison
from vllm_ci.deploy.course import Course
from vllm_ci.deploy.deployment import Deployment
from vllm_ci.deploy.scaling import Need
from vllm_ci.domain.errors import ErroredError
from vllm_ci.system import filelock
from vllm_ci.system.filelock import LockedError

FORMAT = "vllm-ci/deployment/v1"
Verb = Literal["promote", "abort"]
_KEPT_LOGS = 20
_ADAPTER = TypeAdapter(Deployment)


class BusyError(ErroredError):
    """Another command is changing the deployment."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked of a deployment.

    Attributes:
        id: Of the deployment.
        at: Index of the step that it is about.
        verb: ``promote`` or ``abort``.
    """

    id: str
    at: int
    verb: Verb


_REQUEST = TypeAdapter(Request)
_COURSE = TypeAdapter(Course)
_NEEDS = TypeAdapter(tuple[Need, ...])
_COMPARISON = TypeAdapter(Comparison)


class Journal:
    """The journal in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "deployment.json"
        self._request = folder / "request.json"

    def read(self) -> Deployment | None:
        """The newest deployment; ``None`` when there was none.

        Raises:
            ErroredError: It cannot be read.
        """
        try:
            fields = json.loads(self._file.read_bytes())
            if fields.pop("format", None) != FORMAT:
                raise ErroredError(
                    f"{self._file} is not of the format {FORMAT}", remedy="use the vllm-ci that wrote it, or newer"
                )
            return _ADAPTER.validate_python(fields)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise ErroredError(
                f"{self._file} cannot be read: {error}",
                remedy="move it away: what serves is not touched, and the next deployment starts from that",
            ) from error

    def write(self, deployment: Deployment) -> None:
        """Replace the state.

        Raises:
            ErroredError: It cannot be written, for instance because the disk is full; the old state stays.
        """
        _replace(self._file, to_json(deployment))

    def comparison(self, deployment: Deployment | None) -> Comparison | None:
        """What was found by comparing answers in a deployment; ``None``: nothing was compared in it, or it cannot be read."""
        try:
            found = _COMPARISON.validate_json((self.folder / "comparison.json").read_bytes())
        except (OSError, ValueError):
            return None
        return found if deployment and found.deployment == deployment.id else None

    def write_comparison(self, comparison: Comparison) -> None:
        """Replace it.

        Raises:
            ErroredError: It cannot be written; the old one stays.
        """
        _replace(self.folder / "comparison.json", _COMPARISON.dump_python(comparison, mode="json"))

    def course(self, deployment: Deployment) -> Course:
        """What was measured in a deployment; nothing where it cannot be read."""
        try:
            found = _COURSE.validate_json((self.folder / "course.json").read_bytes())
        except (OSError, ValueError):
            found = Course(deployment="")
        return found if found.deployment == deployment.id else Course(deployment=deployment.id)

    def write_course(self, course: Course) -> None:
        """Replace it.

        Raises:
            ErroredError: It cannot be written; the old one stays.
        """
        _replace(self.folder / "course.json", _COURSE.dump_python(course, mode="json"))

    def needs(self) -> tuple[Need, ...]:
        """How many servers were needed, as it was last written; none where it cannot be read."""
        try:
            return _NEEDS.validate_json((self.folder / "needs.json").read_bytes())
        except (OSError, ValueError):
            return ()

    def write_needs(self, needs: tuple[Need, ...]) -> None:
        """Replace it.

        Raises:
            ErroredError: It cannot be written; the old one stays.
        """
        _replace(self.folder / "needs.json", _NEEDS.dump_python(needs, mode="json"))

    @property
    def logs(self) -> Path:
        """Folder with the logs of servers that were ended because a deployment went back."""
        return self.folder / "logs"

    def write_log(self, replica: str, text: str) -> None:
        """Keep the end of a server's log; the newest ones are kept."""
        with suppress(OSError):
            self.logs.mkdir(parents=True, exist_ok=True)
            (self.logs / f"{replica}.log").write_text(text, encoding="utf-8")
            for old in sorted(self.logs.glob("*.log"), key=lambda each: each.stat().st_mtime)[:-_KEPT_LOGS]:
                old.unlink()

    def forget(self) -> None:
        """Remove the state: nothing is deployed any more."""
        self._file.unlink(missing_ok=True)

    @contextmanager
    def changing(self, channel: str, *, patience_s: float = 0.0) -> Iterator[None]:
        """Hold the lock for the duration of the context.

        Args:
            channel: For messages.
            patience_s: How long another command may go on to hold it, in seconds.

        Raises:
            BusyError: Another command holds it.
        """
        try:
            with filelock.hold(self.folder / "lock", timeout_s=patience_s):
                yield
        except LockedError as error:
            held = ", ".join(filelock.holders(self.folder / "lock")) or "another process"
            raise BusyError(
                f"another command is changing {channel}: {held}",
                remedy=f"wait for it, or end it: vllm-ci deploy abort {channel}",
            ) from error

    @property
    def busy(self) -> bool:
        """Whether a command changes the deployment now."""
        return bool(filelock.holders(self.folder / "lock"))

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Have no old release ended because its time is over, for the duration of the context: somebody is about to go back.

        A step that ends one has been written by then, or is not begun before the end of the context.
        """
        with filelock.hold(self.folder / "keep", shared=True):
            yield

    @contextmanager
    def ending(self) -> Iterator[bool]:
        """Whether an old release whose time is over may be ended now; :meth:`keeping` waits until the context ends."""
        try:
            with filelock.hold(self.folder / "keep", timeout_s=0):
                yield True
        except LockedError:
            yield False

    def ask(self, request: Request) -> None:
        """Leave a request for the command that changes the deployment, now or next."""
        _replace(self._request, asdict(request))

    def asked(self, deployment: Deployment) -> Verb | None:
        """What is asked of a deployment in its present step; requests about others do not count."""
        try:
            found = _REQUEST.validate_json(self._request.read_bytes())
        except (OSError, ValueError):
            return None
        if found.id != deployment.id:
            return None
        return found.verb if found.verb == "abort" or found.at == deployment.at else None

    def answered(self) -> None:
        """Forget the request."""
        with suppress(FileNotFoundError):
            self._request.unlink()


def to_json(deployment: Deployment) -> dict[str, Any]:
    """Plain data, with its format."""
    return {"format": FORMAT, **_ADAPTER.dump_python(deployment, mode="json")}


def _replace(path: Path, value: object) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as stream:
            json.dump(value, stream, indent=2)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise ErroredError(
            f"{path} cannot be written: {error.strerror}",
            why="the disk may be full, or the folder not writable",
            remedy="what serves goes on; repair it and run the command again",
        ) from error
