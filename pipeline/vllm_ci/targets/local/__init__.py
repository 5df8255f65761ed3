"""Deployments on one machine: servers as processes behind Envoy."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from vllm_ci.deploy.target import Target
from vllm_ci.domain.errors import UsageError

if TYPE_CHECKING:
    from vllm_ci.targets.opening import Opening


@asynccontextmanager
async def open_local(opening: Opening) -> AsyncIterator[Target]:
    """Open the deployment on this machine; what it runs goes on when the context ends.

    Raises:
        UsageError: This machine does not run Linux.
    """
    from vllm_ci.targets.local.launcher import ImageLauncher
    from vllm_ci.targets.local.target import LocalTarget

    if sys.platform != "linux":
        raise UsageError(
            f"the target `local` does not run on {sys.platform}",
            why="it finds processes again through /proc",
            remedy="deploy to a machine with Linux, or to kubernetes",
        )
    launcher = ImageLauncher(repository=opening.setup.repository, access=opening.setup.access)
    settings = opening.settings.gateway.domain(opening.settings.protocol, opening.settings.waiting)
    yield LocalTarget(folder=opening.state / "target", settings=settings, launcher=launcher)
