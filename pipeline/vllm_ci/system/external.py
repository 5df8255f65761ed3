"""Programs of other people (git, uv, apt, a container builder, a credential helper), started from here and nowhere else.

Engines start the programs that are tested; everything else goes through :func:`run`. A program gets a deadline, and no way to
ask anybody: its standard input is closed or given, and it runs in a session of its own, without a terminal that it could open.
It is ended, with everything in its process group, at the deadline, when the caller is interrupted, and when the caller dies.
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
_LINGER_S = 0.5  # how long a child of a program that has ended may still write
_QUICK_S = 0.1

_running: set[int] = set()  # process groups


class ProgramTimeoutError(ErroredError):
    """A program was still running at its deadline, and was ended."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a program ended.

    Attributes:
        exit_code: Its exit status; 128 + N when signal N ended it.
        output: Its standard output; the end of it, where only the tail was kept.
        errors: The end of its standard error.
    """

    exit_code: int
    output: bytes
    errors: bytes

    def tail(self, lines: int = 15) -> str:
        """The last lines of standard error, or of standard output where it wrote no errors."""
        return last_lines(self.errors, lines) or last_lines(self.output, lines)


def last_lines(output: bytes, lines: int) -> str:
    """The end of what a program wrote, for a message."""
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
    """Run a program to its end.

    Args:
        argv: The program, found on ``PATH``, and its arguments.
        what: Names it in messages (``git fetch``): arguments may hold passwords.
        deadline_s: Seconds that it gets; ``VLLM_CI_PROGRAM_TIMEOUT_S`` takes the place of it.
        cwd: Where it runs.
        env: Its environment, by default ours.
        stdin: What it reads; nothing by default.
        quick: It mostly ends within milliseconds: it is guarded against our death only when it takes longer.
        only_tail: Keep the end of its standard output only.
        output_bytes: Most that it may write to standard output where all is kept.
        missing: What to do when there is no such program.
        remedy: What to do when it does not end in time.

    Raises:
        ErroredError: It could not be started, or wrote more than is kept.
        ProgramTimeoutError: It did not end in time.
        UsageError: There is no such program.
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
                f"{what} wrote more than {output_bytes / 1e6:,.0f} MB", remedy="run it by hand and look at its output"
            )
    if not ended:
        said = last_lines(errors, 5)
        raise ProgramTimeoutError(
            f"{what} did not end within {seconds:g} s, and was stopped",
            why=f"the last that it said: {said}" if said else "it said nothing: what it waits for did not answer",
            remedy=f"{remedy}{'; ' if remedy else ''}{TIMEOUT_VARIABLE}=SECONDS gives programs more time",
        )
    return Done(exit_code=_exit_code(process), output=output, errors=errors)


@contextmanager
def conversation(argv: Sequence[str], *, what: str, env: Mapping[str, str], cwd: Path) -> Iterator[Process]:
    """A program that is written to and read from for as long as the context lasts, and ended after it.

    Raises:
        ErroredError: It could not be started.
        UsageError: There is no such program.
    """
    external_guard.watch()
    with _started(argv, what=what, cwd=cwd, env=env, stdin=subprocess.PIPE, stderr=None) as process:
        yield process


def end_running() -> None:
    """Ask every program that runs now to end: whoever waits for one, in whatever thread, goes on."""
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
    """The process, leader of a session of its own; nothing of its group is left afterwards."""
    known = {**(os.environ if env is None else env), external_guard.VARIABLE: external_guard.mark()}
    try:
        process = subprocess.Popen(
            list(argv), cwd=cwd, env=known, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
        )
    except OSError as error:
        raise _not_started(argv[0], what, cwd, error, missing) from error
    _running.add(process.pid)
    try:
        yield process
    finally:
        _end(process)
        _running.discard(process.pid)


def _not_started(program: str, what: str, cwd: Path | None, error: OSError, missing: str) -> ErroredError | UsageError:
    if cwd is not None and not cwd.is_dir():
        return UsageError(f"{cwd} is no directory", remedy="name a directory that exists")
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
    """End the process and its group, politely first. It is reaped last: until then its group's number is nobody else's."""
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
    """Whether the process has ended; it is not reaped."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # somebody else in this process waited for all children
        return True


class _Exchange:
    """What goes into a process and comes out of it, by one thread, with bounds."""

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
            # A child that outlives the program may hold our pipes open for ever.
            if ended_at and now > ended_at + _LINGER_S:
                return True
            for key, _ in self._selector.select(min(deadline - now, 0.25)):
                self._move(key)
        return True

    def _reaped_soon(self, deadline: float) -> bool:
        """The pipes are closed; mostly the process is about to end."""
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
