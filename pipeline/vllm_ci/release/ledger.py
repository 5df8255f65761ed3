"""The ledger: a branch of a git repository, one record a commit, pushed fast-forward only.

Two release managers cannot both win, and a crash leaves the old state or the new. The branch also holds the kustomize overlay
of each channel, which GitOps tools watch. Whatever else is there is not read, and stays as it is.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from random import uniform

from vllm_ci import __version__
from vllm_ci.domain.errors import ErroredError
from vllm_ci.release import kustomization, record
from vllm_ci.release.push import PushRefusal, out_of_reach, refusal_of
from vllm_ci.release.record import Record
from vllm_ci.release.tree import File, GitTree
from vllm_ci.system import scratch
from vllm_ci.system.external import ProgramTimeoutError
from vllm_ci.system.vcs import GitError, git, remote_tip


@dataclass(frozen=True, kw_only=True)
class State:
    """What the branch says.

    Attributes:
        head: Its commit, empty when there is no branch yet.
        records: All of them, in order.
        overlays: The requested kustomizations, by path.
    """

    head: str = ""
    records: tuple[Record, ...] = ()
    overlays: Mapping[str, File] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class KustomizeOverlay:
    """A change of a kustomization: which file, which image's entry, which fields."""

    path: str
    name: str
    fields: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """What is to be appended: a record, whose number and old values of the overlay are filled in, and an overlay's change."""

    record: Record
    overlay: KustomizeOverlay | None = None


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What a commit on the branch changes.

    Attributes:
        by: ``NAME <EMAIL>``.
        at: RFC 3339.
        message: Its message.
        files: Files that are written.
    """

    by: str
    at: str
    message: str
    files: tuple[File, ...]


class Ledger:
    """The branch.

    Args:
        remote: URL or path of the repository.
        branch: Name of the branch.
        create: Create a bare repository at a missing path with the first record.
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

    def read(self, overlays: Iterable[str] = ()) -> State:
        """The state now: the records, and the requested kustomizations.

        Args:
            overlays: Paths of kustomizations.

        Raises:
            ErroredError: It cannot be read.
            ConfigError: A requested kustomization cannot be read or created there.
        """
        if self._absent():
            return State()
        if self._is_path:
            repository = Path(self.remote)
            return _state(repository, self._seen(repository, f"refs/heads/{self.branch}"), overlays)
        with scratch.folder("ledger-") as folder:
            repository = _bare(folder)
            return _state(repository, self._fetched(repository), overlays)

    def append(self, propose: Callable[[State], LedgerEntry | None]) -> tuple[State, Record | None]:
        """Append what ``propose`` returns for the state; it is called again with the new state when another writer was faster.

        Args:
            propose: Gives the entry, or ``None`` when nothing is to be done.

        Returns:
            The state that it was appended to, and the record; no record when there was nothing to do.

        Raises:
            ErroredError: Others were faster time and again, the server refused, or the repository cannot be reached.
            ConfigError: The kustomization cannot be read, made or rewritten.
        """
        found: list[tuple[State, Record | None]] = []

        def prepare(repository: Path, head: str) -> Commit | None:
            state = _state(repository, head)
            entry = propose(state)
            if entry is None:
                found.append((state, None))
                return None
            appended, files = _completed(entry, state, GitTree(repository, head))
            found.append((state, appended))
            return _commit_of(appended, files)

        self.advance(prepare)
        return found[-1]

    @contextmanager
    def tree(self) -> Iterator[GitTree]:
        """The branch as it is now, for what else is kept there than channels.

        Raises:
            ErroredError: It cannot be read.
        """
        with scratch.folder("ledger-") as folder:
            repository = _bare(folder)
            yield GitTree(repository, "" if self._absent() else self._fetched(repository))

    def advance(self, prepare: Callable[[Path, str], Commit | None]) -> None:
        """Put one commit on top of the branch; ``prepare`` is called again when another writer was faster.

        Args:
            prepare: Gives the commit for a repository with the branch, and its head; ``None`` when nothing is to be done.

        Raises:
            ErroredError: Others were faster time and again, the server refused, or the repository cannot be reached.
        """
        if self._absent():
            _make(Path(self.remote))
        refusal: PushRefusal | None = None
        with scratch.folder("ledger-") as folder:
            repository = _bare(folder)
            for attempt in range(1, self._attempts + 1):
                head = self._fetched(repository)
                wanted = prepare(repository, head)
                if wanted is None:
                    return
                refusal = self._pushed(repository, _commit(repository, head, wanted), head)
                if refusal is None:
                    return
                self._sleep(uniform(0.01, 0.05) * 2 ** min(attempt, 6))  # noqa: S311 - spreads load, guards nothing
        if refusal and not refusal.moved:
            raise refusal.error(self.name)
        raise ErroredError(
            f"{self.name} was moved by others {self._attempts} times in a row",
            remedy="nothing was recorded: run the command again",
        )

    @property
    def _is_path(self) -> bool:
        return "://" not in self.remote and ":" not in self.remote.partition("/")[0]

    def _absent(self) -> bool:
        return self._create and self._is_path and not Path(self.remote).exists()

    def _fetched(self, repository: Path, *, again: bool = True) -> str:
        """Commit of the branch, fetched; empty when there is no branch yet."""
        try:
            wanted = f"+refs/heads/{self.branch}:refs/heads/seen"
            git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", self.remote, wanted, cwd=repository)
        except GitError as error:
            if not self._head():
                return ""
            # Another writer may have made the branch since.
            if again:
                return self._fetched(repository, again=False)
            raise out_of_reach(self.name, error) from error
        return self._seen(repository, "refs/heads/seen")

    def _seen(self, repository: Path, reference: str) -> str:
        try:
            return git("for-each-ref", "--format=%(objectname)", reference, cwd=repository).decode().strip()
        except GitError as error:
            raise out_of_reach(self.name, error) from error

    def _head(self) -> str:
        try:
            return remote_tip(self.remote, f"refs/heads/{self.branch}", cwd=Path.cwd())
        except GitError as error:
            raise out_of_reach(self.name, error) from error

    def _pushed(self, repository: Path, commit: str, before: str) -> PushRefusal | None:
        """Nothing when ``commit`` is on the branch now; else why it is not, where trying again may help.

        Raises:
            ErroredError: The server refused it, and not because the branch moved; or it cannot be reached.
        """
        try:
            # Not --quiet: the server's words come as progress.
            git("push", "--porcelain", "--no-verify", self.remote, f"{commit}:refs/heads/{self.branch}", cwd=repository)
        except ProgramTimeoutError:
            if self._head() != commit:
                raise
        except GitError as error:
            # The answer may have been lost, not the push.
            found = self._head()
            if found == commit:
                return None
            refusal = refusal_of(error, moved=found != before)
            if refusal is None:
                raise out_of_reach(self.name, error) from error
            if not refusal.again:
                raise refusal.error(self.name) from error
            return refusal
        return None


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


def _state(repository: Path, head: str, overlays: Iterable[str] = ()) -> State:
    if not head:
        return State()
    tree = GitTree(repository, head)
    records = tuple(record.parse(content, name) for name, content in tree.records().items())
    if [each.number for each in records] != list(range(1, len(records) + 1)):
        raise ErroredError(
            "the ledger's records are not numbered from 1 without gaps",
            remedy="look at the branch's log: it was edited by hand",
        )
    return State(head=head, records=records, overlays={path: tree.overlay(path) for path in overlays})


def _completed(entry: LedgerEntry, state: State, tree: GitTree) -> tuple[Record, list[File]]:
    """The record as it is written, and all files that change."""
    old, changed = _rewritten(entry.overlay, tree) if entry.overlay else ({}, [])
    appended = replace(
        entry.record,
        number=len(state.records) + 1,
        kustomization=old,
        by=entry.record.by or identity(),
        tool=__version__,
    )
    return appended, [File(path=appended.path, text=appended.content.decode()), *changed]


def _rewritten(overlay: KustomizeOverlay, tree: GitTree) -> tuple[Mapping[str, str], list[File]]:
    """The fields of an overlay before its change, and its file if that changes."""
    before = tree.overlay(overlay.path)
    after = kustomization.set_image(before.text or "", overlay.name, overlay.fields, path=before.path)
    old = kustomization.read(before.text, overlay.name, path=before.path) if before.text else {}
    return old, [] if after == before.text else [replace(before, text=after)]


def _commit_of(appended: Record, files: Iterable[File]) -> Commit:
    message = f"{appended.summary}\n\n{appended.release.digest}\n{appended.reason}".strip()
    return Commit(by=appended.by, at=appended.at, message=message, files=tuple(files))


def _commit(repository: Path, head: str, wanted: Commit) -> str:
    """A commit on top of ``head``, by git's own import format (git-fast-import(1))."""
    seconds = int(datetime.fromisoformat(wanted.at).astimezone(UTC).timestamp())
    message = wanted.message.encode() + b"\n"
    feed = [f"commit refs/heads/made\ncommitter {wanted.by} {seconds} +0000\ndata {len(message)}\n".encode(), message]
    feed.append(f"from {head}\n".encode() if head else b"")
    for each in wanted.files:
        content = (each.text or "").encode()
        feed.append(f"M {each.mode} inline {_quoted(each.path)}\ndata {len(content)}\n".encode() + content + b"\n")
    git("fast-import", "--quiet", "--force", cwd=repository, stdin=b"".join(feed))
    return git("rev-parse", "refs/heads/made", cwd=repository).decode().strip()


def _quoted(path: str) -> str:
    """A path as fast-import reads it; control characters are in none."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def identity() -> str:
    """``NAME <EMAIL>`` as git knows it; a default where git has no identity."""
    try:
        ident = git("var", "GIT_COMMITTER_IDENT", cwd=Path.cwd()).decode().strip()
    except GitError:
        return "vllm-ci <vllm-ci@localhost>"
    return ident.rpartition(">")[0] + ">"
