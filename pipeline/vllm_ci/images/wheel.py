"""Wheels: which file of a wheel goes where (Binary distribution format, "Installing a wheel"), without unpacking it."""

from __future__ import annotations

import base64
import csv
import io
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from functools import cached_property
from pathlib import Path

from installer.records import RecordEntry
from installer.scripts import Script
from installer.utils import Scheme, construct_record_file, parse_entrypoints

from vllm_ci.domain.errors import BuildError
from vllm_ci.domain.spec import Files
from vllm_ci.images.entries import Archive, Content, Entry, Inline, Member, read

INSTALLER = b"vllm-ci\n"
_ELF = b"\x7fELF"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The Python environment that wheels go into.

    Attributes:
        prefix: Absolute path in the image.
        python: Minor version.
    """

    prefix: str
    python: str

    @property
    def root(self) -> str:
        """The prefix, as layers write it."""
        return self.prefix.strip("/")

    @property
    def site_packages(self) -> str:
        """Where modules go, as layers write it."""
        return f"{self.root}/lib/python{self.python}/site-packages"

    @property
    def interpreter(self) -> str:
        """Absolute path of the environment's interpreter."""
        return f"{self.prefix}/bin/python"


class Wheel:
    """A wheel file, read in place."""

    def __init__(self, path: Path, environment: Environment, *, project: str) -> None:
        self.path = path
        self.project = project
        self.environment = environment
        self.archive = Archive(path)
        self._members = {info.filename: info for info in self.archive.members}

    @cached_property
    def dist_info(self) -> str:
        """Name of its ``.dist-info`` folder."""
        found = {name.partition("/")[0] for name in self._members if name.partition("/")[0].endswith(".dist-info")}
        if len(found) != 1:
            raise BuildError(f"{self.path.name} has {len(found)} .dist-info folders", remedy="have its author build it again")
        return found.pop()

    @cached_property
    def recorded(self) -> dict[str, str]:
        """Hex sha256 of its files by name in the archive, as its ``RECORD`` has them."""
        hashes = {}
        for name, digest, _ in csv.reader(io.StringIO(self._text(f"{self.dist_info}/RECORD"))):
            algorithm, _, value = digest.partition("=")
            if algorithm == "sha256":
                hashes[name] = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
        return hashes

    def _text(self, name: str) -> str:
        if name not in self._members:
            raise BuildError(f"{self.path.name} has no {name}", remedy="have its author build it again")
        return read(Member(self.archive, self._members[name])).decode()

    def _place(self, name: str) -> tuple[str, str]:
        """Scheme and path below it for a name in the archive."""
        first, _, rest = name.partition("/")
        if first.endswith(".data") and first.removesuffix(".data") == self.dist_info.removesuffix(".dist-info"):
            scheme, _, below = rest.partition("/")
            return scheme, below
        return "purelib", name

    def _path(self, scheme: str, below: str) -> str:
        environment = self.environment
        folders = {
            "purelib": environment.site_packages,
            "platlib": environment.site_packages,
            "scripts": f"{environment.root}/bin",
            "data": environment.root,
            "headers": f"{environment.root}/include/site/python{environment.python}/{self.project}",
        }
        if scheme not in folders or ".." in below.split("/"):
            raise BuildError(f"{self.path.name} wants to put {below} where no wheel may", remedy="do not use this wheel")
        return f"{folders[scheme]}/{below}"

    def files(self) -> Iterator[tuple[Entry, str]]:
        """Everything it installs, with the hex sha256 of each file as recorded (empty where it is not)."""
        record = f"{self.dist_info}/RECORD"
        entries: list[tuple[Entry, str]] = []
        for name, info in self._members.items():
            if name == record or name.startswith((f"{record}.jws", f"{record}.p7s")):
                continue
            scheme, below = self._place(name)
            content: Content = Member(self.archive, info)
            digest = self.recorded.get(name, "")
            executable = bool((info.external_attr >> 16) & stat.S_IXUSR)
            if scheme == "scripts":
                content, digest, executable = _script(content, self.environment.interpreter, digest)
            entries.append(
                (Entry(path=self._path(scheme, below), mode=0o755 if executable else 0o644, content=content), digest)
            )
        entries += [(entry, "") for entry in self._generated()]
        yield from entries
        yield Entry(path=f"{self.environment.site_packages}/{record}", content=Inline(self._installed_record(entries))), ""

    def _generated(self) -> Iterator[Entry]:
        """Console scripts and ``INSTALLER``."""
        yield Entry(path=f"{self.environment.site_packages}/{self.dist_info}/INSTALLER", content=Inline(INSTALLER))
        name = f"{self.dist_info}/entry_points.txt"
        if name in self._members:
            for script, module, attribute, section in parse_entrypoints(self._text(name)):
                name, content = Script(script, module, attribute, section).generate(self.environment.interpreter, "posix")
                yield Entry(path=self._path("scripts", name), mode=0o755, content=Inline(content))

    def _installed_record(self, entries: list[tuple[Entry, str]]) -> bytes:
        """``RECORD`` of what is installed, in a fixed order."""
        site = self.environment.site_packages
        up = "/".join([".."] * (len(site.split("/")) - len(self.environment.root.split("/"))))
        purelib = Scheme("purelib")
        rows: list[tuple[Scheme, RecordEntry]] = []
        for entry, digest in entries:
            below = entry.path.removeprefix(f"{site}/")
            name = below if below != entry.path else f"{up}/{entry.path.removeprefix(self.environment.root + '/')}"
            coded = base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip("=") if digest else ""
            size = str(entry.content.size_bytes) if entry.content and digest else ""
            rows.append((purelib, RecordEntry.from_elements(name, f"sha256={coded}" if coded else "", size)))
        rows.append((purelib, RecordEntry.from_elements(f"{self.dist_info}/RECORD", "", "")))
        with construct_record_file(rows) as stream:
            return stream.read()

    def requires_python(self) -> str:
        """``Requires-Python`` of its metadata."""
        return HeaderParser().parsestr(self._text(f"{self.dist_info}/METADATA")).get("Requires-Python", "")


def _script(content: Content, interpreter: str, digest: str) -> tuple[Content, str, bool]:
    """A script of the wheel, its ``#!python`` pointing at the environment's interpreter."""
    text = read(content)
    if not text.startswith(b"#!python"):
        return content, digest, True
    _, newline, rest = text.partition(b"\n")
    return Inline(b"#!" + interpreter.encode() + newline + rest), "", True


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
