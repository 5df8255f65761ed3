"""Wheels: which file of a wheel goes where (Binary distribution format, "Installing a wheel"), without unpacking it."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from zipfile import ZipInfo

from installer.scripts import Script

from vllm_ci.domain.errors import BuildError
from vllm_ci.domain.image_spec import Files
from vllm_ci.domain.paths import shown
from vllm_ci.images.entries import ArchiveMember, Content, Entry, Inline, read
from vllm_ci.images.environment import Environment, Installed
from vllm_ci.images.wheels import entry_points, metadata, record
from vllm_ci.images.wheels.archive import members, opened
from vllm_ci.images.wheels.record import REBUILD, RecordRow

__all__ = ["Environment", "Wheel", "belongs", "cache_tag", "is_compiled", "pyc_path"]

# Part of the key of a layer of wheels: raised when wheels are refused that were taken before, so that no kept layer holds them.
RULES = 1
INSTALLER = b"vllm-ci\n"
_ELF = b"\x7fELF"
# What setuptools called the wrapper of an entry point; pip leaves these out as well.
_SUFFIX = re.compile(r"(\.exe|-script\.py|\.pya)$")


class Wheel:
    """A wheel file, read in place."""

    def __init__(self, path: Path, environment: Environment, *, project: str) -> None:
        self.path = path
        self.project = project
        self.environment = environment
        self.archive = opened(path)

    @cached_property
    def _members(self) -> dict[str, ZipInfo]:
        return members(self.archive)

    @cached_property
    def dist_info(self) -> str:
        """Name of its ``.dist-info`` directory."""
        found = {name.partition("/")[0] for name in self._members if name.partition("/")[0].endswith(".dist-info")}
        if len(found) != 1:
            raise BuildError(
                f"{self.path.name} has {len(found)} .dist-info directories", why=", ".join(sorted(found)), remedy=REBUILD
            )
        return found.pop()

    @cached_property
    def _folders(self) -> dict[str, str]:
        return self.environment.schemes(self.project)

    @cached_property
    def recorded(self) -> dict[str, RecordRow]:
        """What its ``RECORD`` has of its files, by name in the archive."""
        name = f"{self.dist_info}/RECORD"
        return record.parse(self._text(name), wheel=self.path.name, member=name, names=self._members)

    def _text(self, name: str) -> str:
        if name not in self._members:
            raise BuildError(f"{self.path.name} has no {name}", remedy=REBUILD)
        return record.decoded(read(ArchiveMember(self.archive, self._members[name])), wheel=self.path.name, member=name)

    def _place(self, name: str) -> tuple[str, str]:
        """Scheme and path below it for a name in the archive."""
        first, _, rest = name.partition("/")
        if first.endswith(".data") and first.removesuffix(".data") == self.dist_info.removesuffix(".dist-info"):
            scheme, _, below = rest.partition("/")
            return scheme, below
        return "purelib", name

    def _path(self, name: str, scheme: str, below: str) -> str:
        """Where a file of the archive goes, as layers write it."""
        folders = self._folders
        parts = [part for part in below.split("/") if part not in {"", "."}]
        if scheme not in folders or not parts:
            raise BuildError(
                f"{self.path.name}: {shown(name)} wants to go where no wheel may",
                why=f"below .data there are {', '.join(sorted(folders))}, and files in them",
                remedy=REBUILD,
            )
        return "/".join((folders[scheme], *parts))

    def check(self) -> None:
        """Refuse what pip and uv refuse of its metadata.

        Raises:
            BuildError: Its name, version or format is not what its file name or its format's version says.
        """
        metadata.check_format(self._text(f"{self.dist_info}/WHEEL"), f"{self.path.name}: {self.dist_info}/WHEEL")
        metadata.check_names(self._metadata(), file=self.path.name, dist_info=self.dist_info)

    def files(self) -> Iterator[tuple[Entry, str]]:
        """Everything it installs, with the hex sha256 of each file as recorded (empty where it is not).

        Raises:
            BuildError: It is no proper wheel, or would replace a part of the environment.
        """
        self.check()
        scripts = self._scripts()
        # Written anew by every installer; and of a script both shipped and declared the declared one counts, as with pip.
        written = {f"{self.dist_info}/{name}" for name in ("RECORD", "RECORD.jws", "RECORD.p7s", "INSTALLER")}
        wrappers = {script.name for script in scripts}
        installed = Installed(wheel=self.path.name, environment=self.environment)
        for name, info in self._members.items():
            scheme, below = self._place(name)
            if name in written or (scheme == "scripts" and _SUFFIX.sub("", below) in wrappers):
                continue
            row = self.recorded.get(name, RecordRow())
            content: Content = ArchiveMember(self.archive, info)
            executable = bool((info.external_attr >> 16) & stat.S_IXUSR)
            if scheme == "scripts":
                content, row, executable = _script(content, self.environment.interpreter, row)
            entry = Entry(path=self._path(name, scheme, below), mode=0o755 if executable else 0o644, content=content)
            installed.add(entry, row, source=name)
        site, info_folder = self.environment.site_packages, self.dist_info
        installed.add(Entry(path=f"{site}/{info_folder}/INSTALLER", content=Inline(INSTALLER)), RecordRow(), source="INSTALLER")
        for script in scripts:
            name, code = script.generate(self.environment.interpreter, "posix")
            entry = Entry(path=f"{self.environment.root}/bin/{name}", mode=0o755, content=Inline(code))
            installed.add(entry, RecordRow(), source=f"the script {name} of entry_points.txt")
        installed.check()
        yield from ((entry, row.sha256) for entry, row in installed.rows)
        yield Entry(path=f"{site}/{info_folder}/RECORD", content=Inline(installed.record(info_folder))), ""

    def _scripts(self) -> tuple[Script, ...]:
        name = f"{self.dist_info}/entry_points.txt"
        return entry_points.parse(self._text(name), f"{self.path.name}: {name}") if name in self._members else ()

    def _metadata(self) -> str:
        name = f"{self.dist_info}/METADATA"
        if name not in self._members:
            raise BuildError(f"{self.path.name} has no {name}", remedy=REBUILD)
        # A description in another encoding does not matter here; uv reads it the same way.
        return read(ArchiveMember(self.archive, self._members[name])).decode("utf-8", "replace")


def _script(content: Content, interpreter: str, row: RecordRow) -> tuple[Content, RecordRow, bool]:
    """A script of the wheel, its ``#!python`` pointing at the environment's interpreter."""
    text = read(content)
    if not text.startswith(b"#!python"):
        return content, row, True
    _, newline, rest = text.partition(b"\n")
    return Inline(b"#!" + interpreter.encode() + newline + rest), RecordRow(), True


def is_compiled(entry: Entry) -> bool:
    """Whether a file is machine code or something made from it: ELF by its first bytes, not by its suffix."""
    if entry.content is None:
        return False
    if entry.path.endswith((".so", ".a", ".cubin", ".fatbin", ".ptx", ".hsaco")):
        return True
    first = next(iter(entry.content.chunks()), b"")
    return first.startswith(_ELF)


def belongs(entry: Entry, files: Files) -> bool:
    """Whether a file is of the half of its wheel that a tier takes."""
    if files is Files.ALL:
        return True
    return is_compiled(entry) is (files is Files.COMPILED)


def cache_tag(python: str) -> str:
    """Tag of byte code files (``cpython-311``)."""
    return f"cpython-{python.replace('.', '')}"


def pyc_path(path: str, python: str) -> str:
    """Where the byte code of a source file lies (PEP 3147)."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/__pycache__/{name.removesuffix('.py')}.{cache_tag(python)}.pyc"
