"""Directories below a directory, opened by descriptor and never through a link.

``openat2(2)`` with ``RESOLVE_BENEATH`` and ``RESOLVE_NO_SYMLINKS`` where the kernel has it (Linux 5.6); elsewhere each
component is opened by itself with ``O_NOFOLLOW``, which refuses the same paths.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager

# The number is the same on every architecture that Linux got openat2 for (5.6 gave all of them one table), alpha apart.
_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Longer paths are walked: the kernel takes PATH_MAX bytes in one call, the terminating zero included.
_ONE_CALL_BYTES = 4000


@contextmanager
def directory(top: int, path: str) -> Iterator[int]:
    """Descriptor of the directory ``path`` below the open directory ``top``; ``""`` is that directory itself.

    Raises:
        OSError: It is not there, a component is a link (``ELOOP``, or ``ENOTDIR``) or leads out (``EXDEV``).
    """
    handle = open_directory(top, path)
    try:
        yield handle
    finally:
        os.close(handle)


def open_directory(top: int, path: str) -> int:
    """As :func:`directory`; the caller closes the descriptor."""
    coded = os.fsencode(path or ".")
    if (call := _openat2()) is not None and len(coded) < _ONE_CALL_BYTES:
        return call(top, coded)
    return walk(top, path)


def walk(top: int, path: str) -> int:
    """Open ``path`` one component at a time; the caller closes the descriptor."""
    if ".." in path.split("/"):
        raise OSError(errno.EXDEV, "leads out of the directory", path)
    here = os.open(".", _FLAGS, dir_fd=top)
    try:
        for part in path.split("/"):
            if part not in {"", "."}:
                here, above = os.open(part, _FLAGS, dir_fd=here), here
                os.close(above)
    except BaseException:
        os.close(here)
        raise
    return here


class _Call:
    """``openat2`` through the C library's ``syscall``, which has no wrapper for it."""

    def __init__(self) -> None:
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        resolve = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
        self._how = struct.pack("=QQQ", _FLAGS, 0, resolve)  # struct open_how: flags, mode, resolve

    def __call__(self, top: int, path: bytes) -> int:
        while True:
            arguments = (ctypes.c_long(top), ctypes.c_char_p(path), ctypes.c_char_p(self._how), ctypes.c_size_t(len(self._how)))
            handle: int = self._call(ctypes.c_long(_OPENAT2), *arguments)
            if handle >= 0:
                return handle
            # EAGAIN: a directory was renamed meanwhile, so the kernel could not be sure (openat2(2), RESOLVE_BENEATH).
            if (number := ctypes.get_errno()) not in {errno.EAGAIN, errno.EINTR}:
                raise OSError(number, os.strerror(number), os.fsdecode(path))


@functools.cache
def _openat2() -> _Call | None:
    """The call, where this kernel (and a sandbox around us) lets us make it."""
    if platform.system() != "Linux":
        return None
    call = _Call()
    top = os.open("/", _FLAGS)
    try:
        os.close(call(top, b"."))
    except OSError:
        return None
    finally:
        os.close(top)
    return call
