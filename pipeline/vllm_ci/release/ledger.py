"""The ledger: a branch of a git repository, one record a commit, pushed fast-forward only.

Two release managers cannot both win, and a crash leaves the old state or the new. The branch also holds the kustomize overlay
of each channel, which GitOps tools watch.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from random import uniform

from vllm_ci import __version__, scratch
from vllm_ci.domain.errors import ErroredError
from vllm_ci.release import kustomization, record
from vllm_ci.release.record import Record
from vllm_ci.vcs import GitError, git

# git push exits with 1 when a reference was refused, and with 128 when it could not even ask.
_REFUSED = 1


@dataclass(frozen=True, kw_only=True)
class State:
    """What the branch says.

    Attributes:
        head: Its commit, empty when there is no branch yet.
        records: All of them, in order.
        overlays: Text of each channel's kustomization, by path.
    """

    head: str = ""
    records: tuple[Record, ...] = ()
    overlays: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A change of a kustomization: which file, which image's entry, which fields."""

    path: str
    name: str
    fields: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is to be appended: a record (its number and the overlay's old values are filled in) and an overlay's change."""

    record: Record
    overlay: Overlay


class Ledger:
    """The branch.

    Args:
        remote: URL or path of the repository.
        branch: Name of the branch.
        create: Whether a path that is not there becomes a bare repository with the first record.
        attempts: How often a writer that was overtaken tries again.
        sleep: Waits between attempts.
    """

    def __init__(
        self,
        remote: str,
        branch: str = "releases",
        *,
        create: bool = True,
        attempts: int = 12,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.remote = remote
        self.branch = branch
        self._create = create
        self._attempts = attempts
        self._sleep = sleep

    @property
    def name(self) -> str:
        """For messages."""
        return f"branch {self.branch} of {self.remote}"

    def read(self) -> State:
        """The state now.

        Raises:
            ErroredError: It cannot be read.
        """
        if self._absent():
            return State()
        if self._is_path:
            return self._seen(Path(self.remote), f"refs/heads/{self.branch}")
        with scratch.folder("ledger-") as folder:
            return self._fetched(_bare(folder))

    def append(self, propose: Callable[[State], Entry | None]) -> tuple[State, Record | None]:
        """Append what ``propose`` makes of the state; when somebody else was faster, it is asked again about the new state.

        Args:
            propose: Gives the entry, or ``None`` when nothing is to be done.

        Returns:
            The state that it was appended to, and the record; no record when there was nothing to do.

        Raises:
            ErroredError: Others were faster time and again, or the repository cannot be reached.
        """
        if self._absent():
            _make(Path(self.remote))
        with scratch.folder("ledger-") as folder:
            repository = _bare(folder)
            for attempt in range(1, self._attempts + 1):
                state = self._fetched(repository)
                entry = propose(state)
                if entry is None:
                    return state, None
                appended, files = _completed(entry, state)
                commit = _commit(repository, state.head, appended, files)
                if self._pushed(repository, commit):
                    return state, appended
                self._sleep(uniform(0.01, 0.05) * 2 ** min(attempt, 6))  # noqa: S311 - spreads load, guards nothing
        raise ErroredError(
            f"{self.name} was moved by others {self._attempts} times in a row",
            remedy="nothing was recorded: run the command again",
        )

    @property
    def _is_path(self) -> bool:
        return "://" not in self.remote and ":" not in self.remote.partition("/")[0]

    def _absent(self) -> bool:
        return self._create and self._is_path and not Path(self.remote).exists()

    def _fetched(self, repository: Path) -> State:
        try:
            wanted = f"+refs/heads/{self.branch}:refs/heads/seen"
            git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", self.remote, wanted, cwd=repository)
        except GitError as error:
            if not self._head():
                return State()
            raise self._unreachable(error) from error
        return self._seen(repository, "refs/heads/seen")

    def _seen(self, repository: Path, reference: str) -> State:
        try:
            head = git("for-each-ref", "--format=%(objectname)", reference, cwd=repository).decode().strip()
            return _state(repository, head) if head else State()
        except GitError as error:
            raise self._unreachable(error) from error

    def _head(self) -> str:
        try:
            rows = git("ls-remote", self.remote, f"refs/heads/{self.branch}", cwd=Path.cwd()).decode().split()
        except GitError as error:
            raise self._unreachable(error) from error
        return rows[0] if rows else ""

    def _pushed(self, repository: Path, commit: str) -> bool:
        """Whether ``commit`` is on the branch now; false when somebody else was faster."""
        try:
            git("push", "--quiet", "--no-verify", self.remote, f"{commit}:refs/heads/{self.branch}", cwd=repository)
        except GitError as error:
            # The answer may have been lost, not the push.
            if self._head() == commit:
                return True
            if error.exit_status == _REFUSED:
                return False
            raise self._unreachable(error) from error
        return True

    def _unreachable(self, error: GitError) -> ErroredError:
        return ErroredError(
            f"the ledger cannot be reached: {self.name}", why=error.why, remedy="check release.ledger and your git credentials"
        )


def _make(folder: Path) -> None:
    """A bare repository that appears whole; when two make it at once, one of them is it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    _bare(part)
    part.chmod(0o755)
    try:
        part.rename(folder)
    except OSError:
        shutil.rmtree(part)
        if not (folder / "HEAD").exists():
            raise


def _bare(folder: Path) -> Path:
    git("init", "--quiet", "--bare", "--object-format=sha1", "--initial-branch=releases", ".", cwd=folder)
    return folder


def _state(repository: Path, head: str) -> State:
    listed = git("ls-tree", "-r", "-z", "--name-only", head, cwd=repository).decode().split("\0")
    names = [name for name in listed if name.startswith("records/") or name.endswith((".yaml", ".yml", ".json"))]
    contents = dict(zip(names, _contents(repository, head, names), strict=True))
    records = tuple(record.parse(contents[name], name) for name in sorted(names) if name.startswith("records/"))
    if [each.number for each in records] != list(range(1, len(records) + 1)):
        raise ErroredError(
            "the ledger's records do not count from 1 without gaps", remedy="look at the branch's log: somebody edited it"
        )
    overlays = {name: contents[name].decode() for name in names if not name.startswith("records/")}
    return State(head=head, records=records, overlays=overlays)


def _contents(repository: Path, head: str, names: list[str]) -> list[bytes]:
    """Files of a commit, by one call of git."""
    feed = "".join(f"{head}:{name}\n" for name in names).encode()
    found = git("cat-file", "--batch", cwd=repository, stdin=feed)
    contents, position = [], 0
    for _ in names:
        end = found.index(b"\n", position)
        size = int(found[position:end].rsplit(b" ", 1)[1])
        contents.append(found[end + 1 : end + 1 + size])
        position = end + 1 + size + 1
    return contents


def _completed(entry: Entry, state: State) -> tuple[Record, dict[str, bytes]]:
    """The record as it is written, and all files that change."""
    before = state.overlays.get(entry.overlay.path, "")
    after = kustomization.set_image(before, entry.overlay.name, entry.overlay.fields)
    appended = replace(
        entry.record,
        number=len(state.records) + 1,
        kustomization=kustomization.read(before, entry.overlay.name) if before else {},
        by=entry.record.by or _identity(),
        tool=__version__,
    )
    files = {appended.path: appended.content}
    return appended, files if after == before else {**files, entry.overlay.path: after.encode()}


def _commit(repository: Path, head: str, appended: Record, files: Mapping[str, bytes]) -> str:
    """A commit on top of ``head``, by git's own import format (git-fast-import(1))."""
    seconds = int(datetime.fromisoformat(appended.at).astimezone(UTC).timestamp())
    message = f"{appended.summary}\n\n{appended.release.digest}\n{appended.reason}".strip().encode() + b"\n"
    feed = [f"commit refs/heads/made\ncommitter {appended.by} {seconds} +0000\ndata {len(message)}\n".encode(), message]
    feed.append(f"from {head}\n".encode() if head else b"")
    for path, content in files.items():
        feed.append(f"M 100644 inline {path}\ndata {len(content)}\n".encode() + content + b"\n")
    git("fast-import", "--quiet", "--force", cwd=repository, stdin=b"".join(feed))
    return git("rev-parse", "refs/heads/made", cwd=repository).decode().strip()


def _identity() -> str:
    """``NAME <EMAIL>`` as git has it; a name of our own where git knows nobody."""
    try:
        ident = git("var", "GIT_COMMITTER_IDENT", cwd=Path.cwd()).decode().strip()
    except GitError:
        return "vllm-ci <vllm-ci@localhost>"
    return ident.rpartition(">")[0] + ">"
