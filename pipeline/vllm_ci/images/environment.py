"""The Python environment of an image, and what one wheel installs into it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from installer.records import RecordEntry
from installer.utils import Scheme, construct_record_file

from vllm_ci.domain.errors import BuildError
from vllm_ci.domain.paths import whiteout
from vllm_ci.images.entries import Entry
from vllm_ci.images.wheels.record import REBUILD, RecordRow

# An environment works by these; virtual environments have the scripts that activate them besides, and shells run those.
_OWN_SCRIPTS = re.compile(r"python(3(\.\d+)?)?|(de)?activate(\.(bat|csh|fish|nu|sh))?|[Aa]ctivate\.ps1|activate_this\.py")


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

    def schemes(self, project: str) -> dict[str, str]:
        """Directories of an installation scheme, as layers write them."""
        return {
            "purelib": self.site_packages,
            "platlib": self.site_packages,
            "scripts": f"{self.root}/bin",
            "data": self.root,
            "headers": f"{self.root}/include/site/python{self.python}/{project}",
        }

    def owns(self, path: str) -> bool:
        """Whether a path, as layers write it, is the environment's own: its interpreter, its configuration."""
        below = path.removeprefix(f"{self.root}/")
        folder, _, name = below.rpartition("/")
        return below != path and (below == "pyvenv.cfg" or (folder == "bin" and bool(_OWN_SCRIPTS.fullmatch(name))))


@dataclass(kw_only=True)
class Installed:
    """What a wheel installs, file by file.

    Attributes:
        wheel: Name of its file.
        environment: Where it goes.
        rows: Its files and what ``RECORD`` has of them.
    """

    wheel: str
    environment: Environment
    rows: list[tuple[Entry, RecordRow]] = field(default_factory=list)
    _sources: dict[str, tuple[str, Entry]] = field(default_factory=dict)

    def add(self, entry: Entry, row: RecordRow, *, source: str) -> None:
        """Add a file; ``source`` says what of the wheel it is.

        Raises:
            BuildError: It would replace a part of the environment, or another file of this wheel.
        """
        if self.environment.owns(entry.path):
            raise BuildError(
                f"/{entry.path} is claimed by {self.wheel} ({source}) and by the Python environment of the image",
                why="the image's programs are started through it",
                remedy="use a version of the project without that file, or remove the project",
            )
        if part := whiteout(entry.path):
            raise BuildError(
                f"{self.wheel}: {source} contains {part}",
                why="in an image, a name that begins with .wh. deletes a file of the layers below",
                remedy=REBUILD,
            )
        known = self._sources.setdefault(entry.path, (source, entry))
        if known[1] is not entry:
            if _same(known[1], entry):
                return
            raise BuildError(
                f"{self.wheel} puts two files at /{entry.path}: {known[0]} and {source}",
                why="which one is kept would depend on the order of installation",
                remedy=REBUILD,
            )
        self.rows.append((entry, row))

    def check(self) -> None:
        """Refuse a file where another file of this wheel has its directory.

        Raises:
            BuildError: There is one.
        """
        folders: dict[str, str] = {}
        for path in self._sources:
            parent = path.rpartition("/")[0]
            while parent and parent not in folders:
                folders[parent] = path
                parent = parent.rpartition("/")[0]
        if clash := sorted(folders.keys() & self._sources.keys()):
            file, below = self._sources[clash[0]][0], self._sources[folders[clash[0]]][0]
            raise BuildError(
                f"{self.wheel} has a file and a directory at /{clash[0]}",
                why=f"{file} is the file, and {below} needs the directory",
                remedy=REBUILD,
            )

    def record(self, dist_info: str) -> bytes:
        """``RECORD`` of what is installed, in a fixed order."""
        site, root = self.environment.site_packages, self.environment.root
        up = "/".join([".."] * (len(site.split("/")) - len(root.split("/"))))
        purelib = Scheme("purelib")
        rows: list[tuple[Scheme, RecordEntry]] = []
        for entry, row in self.rows:
            below = entry.path.removeprefix(f"{site}/")
            name = below if below != entry.path else f"{up}/{entry.path.removeprefix(root + '/')}"
            size = str(entry.content.size_bytes) if entry.content and row.hash else ""
            rows.append((purelib, RecordEntry.from_elements(name, row.hash, size)))
        rows.append((purelib, RecordEntry.from_elements(f"{dist_info}/RECORD", "", "")))
        with construct_record_file(rows) as stream:
            return stream.read()


def _same(one: Entry, other: Entry) -> bool:
    first, second = one.content, other.content
    return first is not None and second is not None and b"".join(first.chunks()) == b"".join(second.chunks())
