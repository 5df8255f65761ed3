"""Runs external programs (git, uv, apt, a container builder, a credential helper); no other module starts them.

Engines start the programs that are tested; everything else uses :func:`run`. A program has a deadline and cannot prompt: its
standard input is closed or provided, and it runs in a new session without a terminal. It is terminated, with its process group,
at the deadline, when the caller is interrupted, and when the caller dies.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vllm_ci.domain.errors import ConfigError, ErroredError, UsageError
from vllm_ci.system import external_guard

TIMEOUT_VARIABLE = "VLLM_CI_PROGRAM_TIMEOUT_S"

Process = subprocess.Popen[bytes]

_TAIL_BYTES = 64 * 1024
_OUTPUT_BYTES = 64 * 1024 * 1024
_PIECE_BYTES = 256 * 1024
_GRACE_S = 3.0  # git removes its lock files when it is asked to end
_LINGER_S = 0.5  # how long the child of an ended program may still write
_QUICK_S = 0.1

_running: set[int] = set()  # process groups
_ends: list[None] = []  # one for each call of end_running


class ProgramTimeoutError(ErroredError):
    """A program was still running at its deadline and was terminated."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """Result of a program.

    Attributes:
        exit_code: Its exit status; 128 + N when signal N ended it.
        output: Its standard output, or only the end of it with ``only_tail``.
        errors: The end of its standard error.
    """

    exit_code: int
    output: bytes
    errors: bytes

    def tail(self, lines: int = 15) -> str:
        """The last lines of standard error, or of standard output if standard error is empty."""
        return last_lines(self.errors, lines) or last_lines(self.output, lines)


def last_lines(output: bytes, lines: int) -> str:
    """The last lines of a program's output, for a message."""
    return "\n".join(output.decode("utf-8", "replace").strip().splitlines()[-lines:])


def run(
    argv: Sequence[str],
    *,
    what: str,
    deadline_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    quick: bool = False,
    only_tail: bool = False,
    output_bytes: int = _OUTPUT_BYTES,
    missing: str = "",
    remedy: str = "",
) -> Done:
    """Run a program until it exits.

    Args:
        argv: The program, found on ``PATH``, and its arguments.
        what: Its name in messages (``git fetch``); arguments are not shown because they may contain passwords.
        deadline_s: Timeout in seconds; ``VLLM_CI_PROGRAM_TIMEOUT_S`` overrides it.
        cwd: Working directory.
        env: Environment; by default that of this process.
        stdin: Standard input; empty by default.
        quick: It usually ends within milliseconds, so the guard against our death is started only if it takes longer.
        only_tail: Keep only the end of its standard output.
        output_bytes: Maximum size of its standard output unless ``only_tail`` is set.
        missing: Remedy when the program is not installed.
        remedy: Remedy when it does not end in time.

    Raises:
        ErroredError: It could not be started, or its output is too large.
        ProgramTimeoutError: It did not end in time.
        UsageError: The program is not installed.
    """
    seconds = _deadline(deadline_s)
    source = subprocess.PIPE if stdin else subprocess.DEVNULL
    if not quick:
        external_guard.watch()
    with _started(argv, what=what, cwd=cwd, env=env, stdin=source, missing=missing) as process:
        exchange = _Exchange(process, stdin or b"", keep_bytes=_TAIL_BYTES if only_tail else output_bytes, only_tail=only_tail)
        ended = exchange.until(time.monotonic() + min(seconds, _QUICK_S)) if quick else False
        if not ended:
            external_guard.watch()
            ended = exchange.until(time.monotonic() + seconds)
        output, errors = exchange.output, exchange.errors
        if exchange.too_much:
            raise ErroredError(
                f"{what} wrote more than {output_bytes / 1e6:,.0f} MB", remedy="run it by hand and check its output"
            )
    if not ended:
        said = last_lines(errors, 5)
        raise ProgramTimeoutError(
            f"{what} did not end within {seconds:g} s and was stopped",
            why=f"the end of its output: {said}"
            if said
            else "it wrote nothing, so it was probably waiting for a server or a lock",
            remedy=f"{remedy}{'; ' if remedy else ''}set {TIMEOUT_VARIABLE}=SECONDS for a longer timeout",
        )
    return Done(exit_code=_exit_code(process), output=output, errors=errors)


@contextmanager
def conversation(argv: Sequence[str], *, what: str, env: Mapping[str, str], cwd: Path) -> Iterator[Process]:
    """Run a program with open pipes for as long as the context lasts, and terminate it afterwards.

    Raises:
        ErroredError: It could not be started.
        UsageError: The program is not installed.
    """
    external_guard.watch()
    with _started(argv, what=what, cwd=cwd, env=env, stdin=subprocess.PIPE, stderr=None) as process:
        yield process


def end_running() -> None:
    """Send SIGTERM to every program that is running, so that all threads that wait for one continue."""
    _ends.append(None)
    for group in list(_running):
        _signal(group, signal.SIGTERM)


@contextmanager
def _started(
    argv: Sequence[str],
    *,
    what: str,
    cwd: Path | None,
    env: Mapping[str, str] | None,
    stdin: int,
    stderr: int | None = subprocess.PIPE,
    missing: str = "",
) -> Iterator[Process]:
    """Start the process as leader of a new session; afterwards no process of its group is left."""
    known = {**(os.environ if env is None else env), external_guard.VARIABLE: external_guard.mark()}
    ends = len(_ends)
    try:
        process = subprocess.Popen(
            list(argv), cwd=cwd, env=known, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
        )
    except OSError as error:
        raise _not_started(argv[0], what, cwd, error, missing) from error
    _running.add(process.pid)
    if len(_ends) != ends:  # all programs were ended between its start and the line above
        _signal(process.pid, signal.SIGTERM)
    try:
        yield process
    finally:
        _end(process)
        _running.discard(process.pid)


def _not_started(program: str, what: str, cwd: Path | None, error: OSError, missing: str) -> ErroredError | UsageError:
    if cwd is not None and not cwd.is_dir():
        return UsageError(f"{cwd} is not a directory", remedy="name an existing directory")
    if isinstance(error, FileNotFoundError):
        return UsageError(f"{Path(program).name} was not found", remedy=missing or f"install {Path(program).name}")
    return ErroredError(f"{what} cannot be started", why=str(error), remedy=f"run {program} by hand")


def _deadline(default_s: float) -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, "").strip()
    if not text:
        return default_s
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{TIMEOUT_VARIABLE} is {text!r}", remedy="set it to a number of seconds above 0, or unset it")
    return seconds


def _exit_code(process: subprocess.Popen[bytes]) -> int:
    return 128 - process.returncode if process.returncode < 0 else process.returncode


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its group: SIGTERM, then SIGKILL. It is reaped last, so that its group id is not reused meanwhile."""
    try:
        if not _has_ended(process.pid):
            _signal(process.pid, signal.SIGTERM)
            end = time.monotonic() + _GRACE_S
            while not _has_ended(process.pid) and time.monotonic() < end:
                time.sleep(0.01)
    finally:
        _signal(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _has_ended(pid: int) -> bool:
    """Whether the process has ended; does not reap it."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # other code in this process has waited for all children
        return True


class _Exchange:
    """Feeds standard input and reads standard output and error in one thread, with size limits."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes, *, keep_bytes: int, only_tail: bool) -> None:
        self._process, self._keep, self._only_tail = process, keep_bytes, only_tail
        self._out, self._err, self._in = bytearray(), bytearray(), memoryview(stdin)
        self._selector = selectors.DefaultSelector()
        for stream in (process.stdout, process.stderr):
            assert stream is not None  # noqa: S101
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            self._selector.register(process.stdin, selectors.EVENT_WRITE)
        self.too_much = False

    @property
    def output(self) -> bytes:
        """What was kept of standard output."""
        return bytes(self._out)

    @property
    def errors(self) -> bytes:
        """The end of standard error."""
        return bytes(self._err)

    def until(self, deadline: float) -> bool:
        """Whether the process ended before ``deadline`` (of the monotonic clock), or wrote too much."""
        ended_at = 0.0
        while not self.too_much:
            now = time.monotonic()
            if not self._selector.get_map() and self._reaped_soon(deadline):
                return True
            if now >= deadline:
                return False
            if not ended_at and _has_ended(self._process.pid):
                ended_at = now
            # A child that outlives the program may keep our pipes open forever.
            if ended_at and now > ended_at + _LINGER_S:
                return True
            for key, _ in self._selector.select(min(deadline - now, 0.25)):
                self._move(key)
        return True

    def _reaped_soon(self, deadline: float) -> bool:
        """Wait for the process to end: its pipes are closed, so it usually ends at once."""
        pause = 0.0002
        while not _has_ended(self._process.pid):
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        return True

    def _move(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._process.stdin:
            self._feed()
            return
        piece = os.read(key.fd, _PIECE_BYTES)
        if not piece:
            self._selector.unregister(key.fileobj)
        elif key.fileobj is self._process.stderr:
            self._err += piece
            del self._err[:-_TAIL_BYTES]
        else:
            self._out += piece
            if self._only_tail:
                del self._out[: -self._keep]
            elif len(self._out) > self._keep:
                self.too_much = True

    def _feed(self) -> None:
        stream = self._process.stdin
        assert stream is not None  # noqa: S101
        try:
            self._in = self._in[os.write(stream.fileno(), self._in[:_PIECE_BYTES]) :]
        except BrokenPipeError:
            self._in = self._in[len(self._in) :]
        if not self._in:
            self._selector.unregister(stream)
            with contextlib.suppress(BrokenPipeError):
                stream.close()
