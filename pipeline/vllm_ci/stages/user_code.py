"""Find the line of user code that caused an error: messages name it, not a line of vllm-ci or a library."""

from __future__ import annotations

import inspect
import linecache
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

import vllm_ci

_OURS = str(Path(vllm_ci.__file__).parent) + os.sep
_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")})


def place(error: BaseException) -> str:
    """``path:line`` of the innermost user code in the traceback; empty if there is none."""
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename):
        return f"{shown(error.filename)}:{error.lineno or 1}"
    found = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    users = [(name, line) for name, line in found if _is_users(name)]
    return f"{shown(users[-1][0])}:{users[-1][1]}" if users else ""


def caller() -> str:
    """``path:line`` of the user code that made the current call; empty if there is none."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the documented way to find a caller
    while frame is not None:
        if _is_users(frame.f_code.co_filename):
            return f"{shown(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def defined_at(function: object) -> str:
    """``path:line`` of a function in user code; empty for anything else."""
    function = inspect.unwrap(function) if callable(function) else function
    code = getattr(getattr(function, "function", function), "__code__", None)
    if code is None or not _is_users(code.co_filename):
        return ""
    return f"{shown(code.co_filename)}:{code.co_firstlineno}"


def words(error: BaseException) -> str:
    """What the error says in one line; an ``assert`` without a message is shown as it is written in the file."""
    text = printable(str(error)).strip().splitlines()
    if isinstance(error, AssertionError):
        return text[0] if text else _source(error) or "an assertion failed"
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def leaves(error: Exception | SystemExit) -> Iterator[Exception | SystemExit]:
    """The errors in a group of a task group, or the error itself."""
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    else:
        yield error


def trace(error: BaseException) -> str:
    """The traceback, starting at the first line of user code."""
    begin: TracebackType | None = error.__traceback__
    while begin is not None and not _is_users(begin.tb_frame.f_code.co_filename):
        begin = begin.tb_next
    return printable("".join(traceback.format_exception(type(error), error, begin)))


def printable(text: str) -> str:
    """Text that can be encoded: half of a surrogate pair, as undecodable bytes become, is shown as an escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shown(path: str) -> str:
    """A path for messages: relative if it is below the working directory."""
    absolute = Path(path).absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def _source(error: AssertionError) -> str:
    file, _, line = place(error).rpartition(":")
    return linecache.getline(str(Path(file).absolute()), int(line)).strip() if file else ""


def _is_users(name: str) -> bool:
    if name.startswith("<"):
        return name.startswith("<ipython")
    path = str(Path(name).absolute())
    return not path.startswith((_OURS, *_INSTALLED)) and f"{os.sep}site-packages{os.sep}" not in path
