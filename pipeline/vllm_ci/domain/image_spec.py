"""Specification of an image: its base, layers, files and configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path


def selected(name: str, patterns: Iterable[str]) -> bool:
    """Whether ``patterns`` select ``name``: the last pattern that matches decides, and one with ``!`` in front excludes.

    Shell patterns; ``*`` matches ``/`` too.
    """
    chosen = False
    for pattern in patterns:
        if fnmatchcase(name, pattern.removeprefix("!")):
            chosen = not pattern.startswith("!")
    return chosen


class Files(StrEnum):
    """Which files of a wheel belong to a tier."""

    ALL = "all"
    COMPILED = "compiled"
    PYTHON = "python"


class Compression(StrEnum):
    """How layers are compressed; every container engine reads gzip, Docker before 23 cannot read zstd."""

    GZIP = "gzip"
    ZSTD = "zstd"


@dataclass(frozen=True, kw_only=True)
class Tier:
    """Wheels that change at a similar rate and therefore share layers.

    Attributes:
        name: Short name (``torch``).
        wheels: Patterns of normalised project names; ``!`` excludes what an earlier pattern matched.
        files: Which of their files; to split wheels in two, use two tiers with the same patterns.
        max_bytes: Wheels are split over several layers of at most this many bytes of wheels; a single larger wheel gets its
            own layer.
    """

    name: str
    wheels: tuple[str, ...]
    files: Files = Files.ALL
    max_bytes: int = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Base:
    """What the Python environment is installed on: locked Debian packages, or an image by digest.

    Attributes:
        suite: Debian suite (``bookworm``); empty with ``image``.
        packages: Requested packages; their dependencies are locked with them.
        exclude: Patterns of paths to leave out (documentation, manuals); ``!`` includes again.
        links: Symbolic links that maintainer scripts would have made: path to target.
        image: ``NAME@sha256:...`` (or ``oci:FOLDER@sha256:...``) of the base image. Suite and packages then only provide
            the interpreter that compiles byte code, and do not go into the image.
        interpreter: Absolute path of Python in the base; empty for ``/usr/bin/pythonX.Y``.
    """

    suite: str = ""
    packages: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    interpreter: str = ""


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """Files of the user's commit and where they are copied to.

    Attributes:
        source: Path in the repository, a file or a directory; ``.`` for all of it.
        target: Absolute path in the image. For a directory: the directory that gets its content. For a file: the path of the
            file, or with a slash at the end the directory that it goes into.
        exclude: Patterns of paths below ``source`` to leave out; ``!`` includes again.
    """

    source: str
    target: str
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Compile:
    """How a wheel of a commit is compiled: a target of the commit's own Dockerfile.

    Attributes:
        dockerfile: Path in the repository.
        target: Stage that builds the wheel.
        wheels: Folder in that stage that contains the wheel.
        arguments: Build arguments.
        program: docker, podman or buildah; empty for the first one that is installed.
    """

    dockerfile: str = "docker/Dockerfile"
    target: str = "build"
    wheels: str = "/workspace/dist"
    arguments: Mapping[str, str] = field(default_factory=dict)
    program: str = ""


@dataclass(frozen=True, kw_only=True)
class VllmSource:
    """States that the repository is vLLM itself, and where wheels of its commits can be found.

    Attributes:
        package: Folder of the Python package.
        project: The project in the lock that it replaces; empty for the one named ``vllm`` or ``vllm-*``.
        release: Revision that the locked wheel was built from; empty for ``v`` and its version.
        wheels: Folders, or roots of package indexes, with wheels of commits; ``{sha}`` is replaced by the commit.
        inputs: Paths that compiled files are built from (patterns allowed in the last component).
        requirements: Requirement files that the image must satisfy.
        compile: How to compile a commit that no wheel matches.
    """

    package: str = "vllm"
    project: str = ""
    release: str = ""
    wheels: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ("CMakeLists.txt", "cmake", "csrc", "requirements/build*", "rust", "setup.py")
    requirements: tuple[str, ...] = ()
    compile: Compile | None = None


@dataclass(frozen=True, kw_only=True)
class User:
    """The user that the image runs as, written into ``/etc/passwd``. It owns no files; writable folders belong to its group."""

    name: str = "vllm"
    uid: int = 2000
    gid: int = 0
    home: str = "/home/vllm"


@dataclass(frozen=True, kw_only=True)
class Health:
    """``HEALTHCHECK`` of the image config (read by Docker and Podman; Kubernetes has its own)."""

    argv: tuple[str, ...]
    interval_s: float = 30.0
    timeout_s: float = 10.0
    start_period_s: float = 600.0
    retries: int = 3


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """``images/NAME.yaml``, overridden by the user's ``vllm-ci.yaml``.

    Attributes:
        name: Name of the spec (``cpu``); also the last component of the repository unless the user sets one.
        variant: Suffix of the tag: ``<sha>-<variant>``.
        repository: Name of the image without tag and digest.
        base: The base of the image.
        python: Minor version of the interpreter (``3.11``).
        glibc: Newest glibc that wheels may require; the version in the base (``2.36``).
        prefix: Path of the Python environment in the image.
        platforms: Platforms the locks cover (``linux/amd64``).
        targets: Platforms to build; a subset of ``platforms``.
        requirements: Requirements that the wheel lock is resolved from.
        overrides: Requirements that replace the dependencies declared by packages.
        wheels_lock: Wheel lock file.
        debs_lock: Debian lock file.
        tiers: Layers of wheels, lowest first.
        winners: For paths that two wheels contain with different content: path pattern to the project whose file is kept.
        writable: Folders that the image's group may write to.
        links: Symbolic links: path to target.
        env: Environment of the image.
        entrypoint: Entry point.
        command: Default arguments.
        workdir: Working directory.
        ports: Ports that it listens on (``8000/tcp``).
        user: The user that it runs as.
        labels: Labels in addition to those of every image.
        health: Health check, if any.
        compression: Compression of the layers that are written.
        overlays: Files of the commit.
        vllm: Set when the repository is vLLM itself.
    """

    name: str
    variant: str
    repository: str
    base: Base
    python: str
    glibc: str
    prefix: str
    platforms: tuple[str, ...]
    targets: tuple[str, ...]
    requirements: tuple[str, ...]
    wheels_lock: Path
    debs_lock: Path
    tiers: tuple[Tier, ...]
    overrides: tuple[str, ...] = ()
    winners: Mapping[str, str] = field(default_factory=dict)
    writable: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    workdir: str = "/"
    ports: tuple[str, ...] = ()
    user: User = User()
    labels: Mapping[str, str] = field(default_factory=dict)
    health: Health | None = None
    compression: Compression = Compression.GZIP
    overlays: tuple[Overlay, ...] = ()
    vllm: VllmSource | None = None

    @property
    def interpreter(self) -> str:
        """Absolute path of the base's Python."""
        return self.base.interpreter or f"/usr/bin/python{self.python}"

    @property
    def site_packages(self) -> str:
        """Absolute path where wheels are installed."""
        return f"{self.prefix}/lib/python{self.python}/site-packages"

    def tag(self, sha: str) -> str:
        """Tag of the image of commit ``sha``."""
        return f"{sha}-{self.variant}" if self.variant else sha

    def changed(self, **values: object) -> ImageSpec:
        """A copy with some attributes replaced."""
        return replace(self, **values)  # type: ignore[arg-type]
