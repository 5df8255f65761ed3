"""One suite for every engine: absent is a skip with the reason, broken fails."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from vllm_ci.engine import Engine

ENGINES = ["host", pytest.param("dagger", marks=pytest.mark.engine_dagger)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))


def _open(name: str) -> AbstractAsyncContextManager[Any]:
    if name == "host":
        from vllm_ci.engines.host import HostEngine

        return HostEngine()
    if not any(os.environ.get(variable) for variable in ("_EXPERIMENTAL_DAGGER_RUNNER_HOST", "DAGGER_SESSION_PORT")):
        pytest.skip("no Dagger engine: neither _EXPERIMENTAL_DAGGER_RUNNER_HOST nor DAGGER_SESSION_PORT is set")
    from vllm_ci.engines.dagger import DaggerEngine

    return cast("AbstractAsyncContextManager[Any]", DaggerEngine())


@pytest.fixture(params=ENGINES)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    with anyio.fail_after(250):
        async with _open(request.param) as opened:
            yield opened
