"""A program to run and a service to hold, as data.

Arguments and environment values may hold placeholders, which an engine fills in at the last moment, so that no host path,
port number or container name is ever part of a program:

==================  ==========================================================================
``{in.NAME}``       where the input directory NAME is mounted (read-only)
``{out}``           the program's own, empty, writable output directory
``{url.NAME}``      base URL (``http://host:port``) of the service NAME the program needs
``{host}``          (services only) the address to listen on
``{port}``          (services only) the port to listen on
``{url}``           (services only, in ``ready``) the service's own base URL as seen from beside it
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
    """A handle on a directory that an engine holds; where it lies is the engine's business."""

    async def read(self, name: str) -> bytes:
        """Content of the file at the relative path ``name``.

        Raises:
            FileNotFoundError: There is no such file.
        """

    async def names(self) -> tuple[str, ...]:
        """Relative paths of all files, sorted."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """Something that runs to its end.

    Attributes:
        name: Short name for progress and logs (``streaming``).
        argv: Command line; ``python`` as its first word is the interpreter of the environment it runs in.
        env: Environment variables on top of the environment's own.
        secrets: Names of variables of the caller's environment handed through, ``NEW=NAME`` under a new name; values never
            stand in a Program.
        image: Runs inside this image; ``None`` is the tool's own environment (suites, builder).
        inputs: Read-only input directories by name.
        needs: Services (by the name used in ``{url.NAME}``) that must be up.
        timeout_s: Seconds after which it is ended; the outcome then says so.
        cache_key: When set, an earlier successful outcome of the same key may stand for a run.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    image: ImageRef | None = None
    inputs: Mapping[str, Directory] = field(default_factory=dict)
    needs: Mapping[str, Service] = field(default_factory=dict)
    timeout_s: float = 600.0
    cache_key: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a program ended; true when it ended with exit code 0.

    Attributes:
        exit_code: The program's own; 128 + N when signal N ended it.
        seconds: Wall time.
        output: What it wrote under ``{out}``.
        log: Standard output and error, interleaved, in full.
        timed_out: It was ended because ``timeout_s`` ran out.
        reused: Stands for an earlier run with the same ``cache_key``.
        stopped: It was ended, or never started, because its caller wanted no more of it.
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
        """Never: there is none."""
        raise FileNotFoundError(name)

    async def names(self) -> tuple[str, ...]:
        """None."""
        return ()


@dataclass(frozen=True, kw_only=True)
class ServiceSpec:
    """Something that listens.

    Attributes:
        name: Short name for progress and logs (``vllm``).
        argv: Command line, with ``{port}`` where the port goes.
        ready: Command run beside it in the same environment, with ``{url}``; exit code 0 means ready.
        ready_timeout_s: How long the first ``ready`` may take to succeed.
        ready_interval_s: Seconds between two tries.
        stop_grace_s: Seconds between asking it to stop and killing it.
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
    """A service that runs and is ready.

    Attributes:
        name: That of its spec.
        url: ``http://host:port`` as the caller of the engine reaches it; programs get theirs through ``{url.NAME}``.
        ready_s: Seconds from start to ready.
    """

    name: str
    url: str
    ready_s: float

    async def log(self) -> str:
        """Standard output and error so far, in full."""

    async def alive(self) -> bool:
        """Whether it still runs."""


_TAKEN = ("PATH", "HOME", "SHELL", "IFS", "ENV", "BASH_ENV", "TMPDIR", "NO_PROXY", "no_proxy", "GCONV_PATH")
_TAKEN_PREFIXES = ("LD_", "DYLD_", "PYTHON", "VLLM_CI_", "MALLOC_", "GLIBC_")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def refusal_of_secret(secret: str, *, ours: bool = False) -> str:
    """Why no secret can be handed through as ``NAME`` or ``NEW=NAME``; empty when it can.

    A secret becomes a variable of the program's environment, and must not replace one that the program or this tool needs.

    Args:
        secret: As a program holds it.
        ours: Names that begin with ``VLLM_CI_`` are allowed: the caller is this tool, not a configuration.
    """
    new, separator, old = secret.partition("=")
    name = new if separator else secret
    for each in (name, old) if separator else (name,):
        if not _NAME.fullmatch(each):
            return f"{each!r} is not the name of an environment variable"
    if (name in _TAKEN or name.startswith(_TAKEN_PREFIXES)) and not (ours and name.startswith("VLLM_CI_")):
        other = f"hand it through under another name: NEW={old or name}"
        return f"{name} would replace a variable that the program itself needs; {other}"
    return ""


def fill(text: str, values: Mapping[str, str]) -> str:
    """``text`` with its placeholders replaced; braces that are no placeholder stay as they are.

    Raises:
        KeyError: A placeholder has no value (the program asks for an input or a service it does not declare).
    """
    return _PLACEHOLDER.sub(lambda match: values[match.group(1)], text)
