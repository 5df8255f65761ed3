"""A deployment with the real Envoy and servers that stream, in a folder of its own; nothing of it is left afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from standin.deployment import Place, needs_envoy
from vllm_ci.engines import detached

_CLOSING_S = 120.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _envoy() -> None:
    needs_envoy()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    found = Place(folder=tmp_path)
    yield found
    with anyio.fail_after(_CLOSING_S):  # pytest-timeout fires once for a test, so that a close that hangs would never end
        await found.target().close()
    assert not detached.marked(f"{tmp_path}/target/gateway")
