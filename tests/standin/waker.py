"""A waker in the process of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio

from vllm_ci.deploy.scaling import Scale
from vllm_ci.domain.gateway import Waiting
from vllm_ci.engines.attended import bound
from vllm_ci.targets.envoy.waker import SOCKET
from vllm_ci.targets.local.target import LocalTarget
from vllm_ci.targets.local.waker import Waker

WAITING = Waiting(queue=200, wait_s=60)
SCALE = Scale(least=0, most=1, idle_s=0.8)
NEVER = replace(SCALE, idle_s=3600.0)


@asynccontextmanager
async def awake(target: LocalTarget, scale: Scale = NEVER, waiting: Waiting = WAITING, **more: object) -> AsyncIterator[Waker]:
    """A waker that runs in the context."""
    waker = Waker(target, scale, waiting, **more)  # type: ignore[arg-type]
    with bound(target.folder / "gateway" / SOCKET) as listener:
        async with anyio.create_task_group() as group:
            group.start_soon(waker.run, listener)
            yield waker
            group.cancel_scope.cancel()
