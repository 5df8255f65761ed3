"""How a replica becomes a process: the command line in the files of its image, as the host engine runs it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import anyio

from vllm_ci.deploy.target import Revision
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.events import Emit, ignore
from vllm_ci.engines import environment
from vllm_ci.registry.access import Access


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A process to start.

    Attributes:
        argv: Its command line.
        env: Its environment.
        keep: Descriptors that it holds while it lives; whoever starts it closes them here.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    keep: tuple[int, ...] = ()


class Launcher(Protocol):
    """Turns a revision into processes."""

    async def prepare(self, revision: Revision) -> None:
        """Do what takes time before the first process is started."""

    async def launch(self, revision: Revision, place: Path, *, port: int, devices: tuple[int, ...]) -> Launch:
        """The process of one replica.

        Args:
            revision: What it serves.
            place: Its folder, which is empty.
            port: That it must listen on, on the loopback interface.
            devices: Indices of the GPUs that it may use.
        """


@dataclass(frozen=True, kw_only=True)
class ImageLauncher:
    """Starts servers from the unpacked files of images.

    Attributes:
        repository: Where images are pulled from that are not in the store of this machine.
        access: How it is reached.
    """

    repository: str
    access: Access = field(default_factory=Access.from_environment)
    emit: Emit = ignore

    async def prepare(self, revision: Revision) -> None:
        """Pull the image if it is not here, and unpack it."""
        await anyio.to_thread.run_sync(self._prepare, revision.image.digest)

    def _prepare(self, digest: str) -> None:
        from vllm_ci.config import obtain
        from vllm_ci.images import tree

        obtain.present(self.repository, digest, access=self.access, emit=self.emit)
        tree.materialise(digest, emit=self.emit)

    async def launch(self, revision: Revision, place: Path, *, port: int, devices: tuple[int, ...]) -> Launch:
        """The server's command line in the files of the image, which are not pruned while it lives."""
        return await anyio.to_thread.run_sync(lambda: _from_image(revision, place, port, devices))


def _from_image(revision: Revision, place: Path, port: int, devices: tuple[int, ...]) -> Launch:
    from vllm_ci.images import store, tree
    from vllm_ci.images.spec_file import host_platform

    serving = revision.serving
    held = store.Store()
    with tree.in_use(revision.image.digest) as files:
        handle = held.tree_handle(files.name)
    try:
        config = store.image_config(revision.image.digest, platform=host_platform())
        values = {"host": "127.0.0.1", "port": str(port), "url": f"http://127.0.0.1:{port}"}
        shown = environment.devices(",".join(map(str, devices)) or "none")
        where = environment.of_image((files, config), place, {**shown, **serving.env}, serving.secrets, values)
        words = where.command(serving.argv, values)
        return Launch(argv=tuple(word.replace("{model}", serving.checkpoint) for word in words), env=where.env, keep=(handle,))
    except BaseException:
        os.close(handle)
        raise


def fresh(place: Path) -> None:
    """An empty folder for a replica, with nothing left of the process that had it before but its log."""
    if place.exists():
        for each in place.iterdir():
            if each.name == "log":
                continue
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{place} cannot be created", why=str(error), remedy="free some space") from error
