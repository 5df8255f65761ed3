"""A deployment on this machine whose servers are stand-ins."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from vllm_ci.deploy.target import Revision, Serving
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.domain.image import ImageRef
from vllm_ci.targets.envoy import program
from vllm_ci.targets.local.budget import Machine
from vllm_ci.targets.local.launcher import Launch
from vllm_ci.targets.local.target import LocalTarget

SERVERS = {name: Path(__file__).parent / file for name, file in (("http", "streaming.py"), ("grpc", "grpc_server.py"))}


def needs_envoy() -> None:
    """Skip where Envoy is not installed."""
    try:
        program.find()
    except UsageError as error:
        pytest.skip(f"needs Envoy: {error.remedy}")


@dataclass(frozen=True, kw_only=True)
class StandinLauncher:
    """Starts servers of ours in the place of those of an image."""

    seen: Path

    async def prepare(self, revision: Revision) -> None:
        """There is nothing to unpack."""

    async def launch(self, revision: Revision, place: Path, *, port: int, devices: tuple[int, ...]) -> Launch:  # noqa: ARG002
        """The command line of the stand-in."""
        server = str(SERVERS[revision.serving.protocol])
        argv = (sys.executable, server, str(port), revision.serving.argv[0], str(self.seen), *revision.serving.argv[1:])
        return Launch(argv=argv, env={"PATH": "/usr/bin:/bin", "DEVICES": ",".join(map(str, devices))})


def revision(name: str, mode: str = "", **serving: Any) -> Revision:
    """A revision whose servers tell ``name``, and behave as ``mode`` says (streaming.py, grpc_server.py)."""
    settings = {"ready_timeout_s": 60.0, "drain_s": 60.0, **serving}
    return Revision(
        commit=(name * 40)[:40],
        image=ImageRef(repository="r", digest="sha256:" + (name * 64)[:64]),
        serving=Serving(argv=(name, *([mode] if mode else [])), model="m", **settings),
    )


def opened(folder: Path, settings: GatewaySettings | None = None, machine: Machine | None = None) -> LocalTarget:
    """The target whose files are in ``folder``, as any process would open it."""
    there = machine or Machine(memory_bytes=0, devices=0)
    launcher = StandinLauncher(seen=folder.parent / "seen")
    return LocalTarget(folder=folder, launcher=launcher, settings=settings, machine=lambda: there)


@dataclass(kw_only=True)
class Place:
    """Where a deployment is, and how it is opened, also a second time."""

    folder: Path
    machine: Machine = field(default_factory=lambda: Machine(memory_bytes=0, devices=0))

    @property
    def seen(self) -> Path:
        """Requests that reached servers: lines of JSON with method, target and headers."""
        return self.folder / "seen"

    def target(self, settings: GatewaySettings | None = None) -> LocalTarget:
        """The target."""
        return opened(self.folder / "target", settings, self.machine)
