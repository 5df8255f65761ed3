"""What the other deployments of this machine use: GPUs and memory are the machine's, but each remembers its own servers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from vllm_ci.system import filelock
from vllm_ci.targets.local.budget import Used
from vllm_ci.targets.local.state import State, Store

_PATIENCE_S = 120


def used(state: State, *, of: str = "") -> Iterator[Used]:
    """What the servers of a deployment have.

    Args:
        state: Of the deployment.
        of: Its name, for messages where it is another one.
    """
    for kept in state.replicas.values():
        if kept.process.alive:
            known = state.revisions.get(kept.revision)
            memory = known.serving.memory_bytes if known else 0
            name = f"{kept.revision} ({of})" if of else kept.revision
            yield Used(revision=name, memory_bytes=memory, devices=kept.devices)


def beside(folder: Path) -> list[Used]:
    """What the servers of all other deployments have, whose folders lie beside that of ``folder``.

    Args:
        folder: Of the target of one deployment (``DEPLOYMENT/target``).

    Raises:
        ErroredError: The state of another deployment cannot be read, so it is not known what is free.
    """
    found = {each.parent.resolve() for each in folder.parent.parent.glob(f"*/{folder.name}/{Store.FILE}")}
    others = sorted(found - {folder.resolve()})
    return [each for other in others for each in used(Store(folder=other).load(), of=other.parent.name)]


@asynccontextmanager
async def choosing(folder: Path) -> AsyncIterator[None]:
    """Only one deployment of the machine at a time chooses GPUs and writes down which; call it with the lock of the deployment.

    Raises:
        LockedError: Another one has been choosing for two minutes.
    """
    path = folder.parent.parent / ".choosing"
    handle = await anyio.to_thread.run_sync(lambda: filelock.take(path, timeout_s=_PATIENCE_S))
    try:
        yield
    finally:
        os.close(handle)
