"""An engine that does not answer is given up, and a caller who does not want to wait does not have to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TextIO, cast

import anyio
import pytest
from rich.console import Console

from vllm_ci.domain.errors import EngineError
from vllm_ci.engines import dagger_caller
from vllm_ci.engines.dagger import DaggerEngine

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command line of Dagger that waits for an engine as the real one does."""
    program = tmp_path / "dagger"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/started\ntrap  TERM INT\nread forever\n")
    program.chmod(0o755)
    monkeypatch.setenv("_EXPERIMENTAL_DAGGER_CLI_BIN", str(program))
    monkeypatch.setenv("_EXPERIMENTAL_DAGGER_RUNNER_HOST", "unix:///nowhere/engine.sock")
    for name in ("DAGGER_SESSION_PORT", "DAGGER_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return program


def gone(program: Path) -> bool:
    return not Path("/proc", program.with_name("started").read_text().strip()).exists()


@pytest.mark.slow
async def test_an_engine_that_does_not_answer_is_given_up(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dagger_caller, "_PATIENCE_S", 1.0)
    with pytest.raises(EngineError, match="no Dagger engine answers at unix:///nowhere"):
        async with DaggerEngine():
            pass
    assert gone(program)


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.0, 1.0])
async def test_whoever_waits_for_an_engine_may_stop_waiting(program: Path, after_s: float) -> None:
    begun = time.monotonic()
    with anyio.move_on_after(after_s) as scope:
        async with DaggerEngine():
            pass
    assert scope.cancelled_caught
    assert time.monotonic() - begun < 30
    assert not program.with_name("started").exists() or gone(program)


async def test_a_command_line_that_fails_is_the_reason(program: Path) -> None:
    program.write_text("#!/bin/sh\necho no such engine >&2\nexit 1\n", encoding="utf-8")
    with pytest.raises(EngineError, match=r"(?s)Dagger could not be reached.*no such engine"):
        async with DaggerEngine():
            pass


async def test_the_sdk_can_show_its_progress_where_the_command_line_s_words_are_kept() -> None:
    tail = dagger_caller._Tail()
    with Console(file=cast(TextIO, tail)).status("Connecting"):
        tail.writelines(["no such engine\n"])
    assert await tail.lines() == ["no such engine"]
