"""A directory of this machine, for engines that run here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import anyio


@dataclass(frozen=True)
class HostDirectory:
    """A directory of this machine."""

    path: Path

    async def read(self, name: str) -> bytes:
        """Content of one file."""
        return await anyio.Path(self.path / name).read_bytes()

    async def names(self) -> tuple[str, ...]:
        """Relative paths of all files, sorted."""
        return tuple(sorted(str(file.relative_to(self.path)) for file in self.path.rglob("*") if file.is_file()))
