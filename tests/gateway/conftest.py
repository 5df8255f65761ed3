"""A deployment with the real Envoy and servers that stream, in a folder of its own; nothing of it is left afterwards."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vllm_ci.deploy.target import Revision, Serving
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.domain.image import ImageRef
from vllm_ci.engines import detached
from vllm_ci.targets.envoy import program
from vllm_ci.targets.local.budget import Machine
from vllm_ci.targets.local.launcher import Launch
from vllm_ci.targets.local.target import LocalTarget

SERVER = Path(__file__).parent.parent / "standin" / "streaming.py"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _envoy() -> None:
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

    async def launch(self, revision: Revision, place: Path, *, port: int, devices: tuple[int, ...]) -> Launch:
        """The command line of the stand-in."""
        name, *mode = revision.serving.argv
        argv = (sys.executable, str(SERVER), str(port), name, str(self.seen), *mode)
        return Launch(argv=argv, env={"PATH": "/usr/bin:/bin", "DEVICES": ",".join(map(str, devices))})


def revision(name: str, mode: str = "", **serving: object) -> Revision:
    """A revision whose servers tell ``name``."""
    settings = {"ready_timeout_s": 30.0, "drain_s": 60.0, **serving}
    return Revision(
        commit=(name * 40)[:40],
        image=ImageRef(repository="r", digest="sha256:" + (name * 64)[:64]),
        serving=Serving(argv=(name, *([mode] if mode else [])), model="m", **settings),  # type: ignore[arg-type]
    )


@dataclass(kw_only=True)
class Place:
    """Where a deployment is, and how it is opened, also a second time."""

    folder: Path
    machine: Machine = field(default_factory=lambda: Machine(memory_bytes=0, devices=0))

    @property
    def seen(self) -> Path:
        """Requests that reached servers."""
        return self.folder / "seen"

    def target(self, settings: GatewaySettings | None = None) -> LocalTarget:
        """The target, as another process would open it."""
        return LocalTarget(
            folder=self.folder / "target",
            settings=settings,
            launcher=StandinLauncher(seen=self.seen),
            machine=lambda: self.machine,
        )


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    found = Place(folder=tmp_path)
    yield found
    await found.target().close()
    assert not detached.marked(f"{tmp_path}/target/gateway")
