"""A program to run and a service to keep running, as data.

Arguments and environment values may contain placeholders, which an engine fills in when it starts the program, so that a
program never contains a host path, port number or container name:

==================  ==========================================================================
``{in.NAME}``       where the input directory NAME is mounted (read-only)
``{out}``           the program's writable output directory, empty at the start
``{url.NAME}``      base URL (``http://host:port``) of the service NAME that the program needs
``{host}``          (services only) the address to listen on
``{port}``          (services only) the port to listen on
``{url}``           (services only, in ``ready``) the service's base URL, as reached from the environment it runs in
==================  ==========================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from vllm_ci.domain.image import ImageRef

_PLACEHOLDER = re.compile(r"\{((?:in|url)\.[a-z0-9_-]+|out|host|port|url)\}")


class Directory(Protocol):
    """A handle on a directory of an engine; only the engine knows where it is stored."""

    async def read(self, name: str) -> bytes:
        """Content of the file at the relative path ``name``.

        Raises:
            FileNotFoundError: There is no such file.
        """

    async def names(self) -> tuple[str, ...]:
        """Relative paths of all files, sorted."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program that runs until it exits.

    Attributes:
        name: Short name for progress and logs (``streaming``).
        argv: Command line; ``python`` as the first word is the interpreter of the environment that the program runs in.
        env: Environment variables in addition to those of the environment that it runs in.
        secrets: Names of variables that are passed on from the caller's environment (``NEW=NAME``: under a new name); a
            Program never contains their values.
        image: The image to run in; ``None`` for the tool's own environment (suites, builder).
        inputs: Read-only input directories by name.
        needs: Services that must be running, by the name used in ``{url.NAME}``.
        timeout_s: Seconds after which it is stopped; the outcome then has ``timed_out``.
        gpus: ``none``, ``all`` or a comma-separated list of device numbers; processes on a host see all devices.
        cache_key: When set, the successful outcome of an earlier run with the same key may be reused.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    image: ImageRef | None = None
    inputs: Mapping[str, Directory] = field(default_factory=dict)
    needs: Mapping[str, Service] = field(default_factory=dict)
    timeout_s: float = 600.0
    gpus: str = "none"
    cache_key: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a program; true when it ended by itself with exit code 0.

    Attributes:
        exit_code: Exit code of the program; 128 + N when signal N ended it.
        seconds: Wall time.
        output: What it wrote under ``{out}``.
        log: Complete standard output and error, interleaved.
        timed_out: It was stopped after ``timeout_s``.
        reused: The result of an earlier run with the same ``cache_key``.
        stopped: The caller stopped it, or stopped before it was started.
    """

    exit_code: int
    seconds: float
    output: Directory
    log: str
    timed_out: bool = False
    reused: bool = False
    stopped: bool = False

    def __bool__(self) -> bool:
        return self.exit_code == 0 and not self.timed_out and not self.stopped


@dataclass(frozen=True)
class NoFiles:
    """The directory of a program that was never started."""

    async def read(self, name: str) -> bytes:
        """Always raises ``FileNotFoundError``: there are no files."""
        raise FileNotFoundError(name)

    async def names(self) -> tuple[str, ...]:
        """Always empty."""
        return ()


@dataclass(frozen=True, kw_only=True)
class ServiceSpec:
    """A server that listens on a port.

    Attributes:
        name: Short name for progress and logs (``vllm``).
        argv: Command line, with the placeholder ``{port}``.
        ready: Command that is run in the same environment, with ``{url}``; exit code 0 means ready.
        ready_timeout_s: How long the first ``ready`` may take to succeed.
        ready_interval_s: Seconds between two attempts.
        stop_grace_s: Seconds between SIGTERM and SIGKILL.
        port: Port inside a container; 0 lets the engine choose (a process on a host always gets a free one unless set).
        gpus: ``none``, ``all`` or a comma-separated list of device numbers.
        shm_bytes: Size of ``/dev/shm`` where the engine can set it; 0 leaves the default.
    """

    name: str
    argv: tuple[str, ...]
    ready: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    image: ImageRef | None = None
    inputs: Mapping[str, Directory] = field(default_factory=dict)
    ready_timeout_s: float = 600.0
    ready_interval_s: float = 0.5
    stop_grace_s: float = 40.0
    port: int = 0
    gpus: str = "none"
    shm_bytes: int = 0


class Service(Protocol):
    """A service that is running and ready.

    Attributes:
        name: Name from its spec.
        url: ``http://host:port`` as reached by the caller of the engine; programs use ``{url.NAME}``.
        ready_s: Seconds from start to ready.
    """

    name: str
    url: str
    ready_s: float

    async def log(self) -> str:
        """Complete standard output and error so far."""

    async def alive(self) -> bool:
        """Whether it still runs."""


_TAKEN = ("PATH", "HOME", "SHELL", "IFS", "ENV", "BASH_ENV", "TMPDIR", "NO_PROXY", "no_proxy", "GCONV_PATH")
_TAKEN_PREFIXES = ("LD_", "DYLD_", "PYTHON", "VLLM_CI_", "MALLOC_", "GLIBC_")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def refusal_of_secret(secret: str, *, ours: bool = False) -> str:
    """Why a secret cannot be passed on as ``NAME`` or ``NEW=NAME``; empty when it can.

    A secret becomes a variable of the program's environment, and must not replace one that the program or this tool needs.

    Args:
        secret: An entry of :attr:`Program.secrets`.
        ours: Allow names that start with ``VLLM_CI_``: the caller is this tool, not a configuration.
    """
    new, separator, old = secret.partition("=")
    name = new if separator else secret
    for each in (name, old) if separator else (name,):
        if not _NAME.fullmatch(each):
            return f"{each!r} is not the name of an environment variable"
    if (name in _TAKEN or name.startswith(_TAKEN_PREFIXES)) and not (ours and name.startswith("VLLM_CI_")):
        other = f"pass it under another name: NEW={old or name}"
        return f"{name} would replace a variable that the program itself needs; {other}"
    return ""


def fill(text: str, values: Mapping[str, str]) -> str:
    """``text`` with its placeholders replaced; other braces are left unchanged.

    Raises:
        KeyError: A placeholder has no value (the program uses an input or a service that it does not declare).
    """
    return _PLACEHOLDER.sub(lambda match: values[match.group(1)], text)
