"""The server's log, where it can be read: no secrets, no prompts, and no line that a user wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from vllm_ci.suites import leaks
from vllm_ci.suites.client import Client, user
from vllm_ci.suites.findings import Finding

Judge = Callable[[Iterable[Finding]], None]


@pytest.fixture
def log(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Reads the log as it is now."""
    name = request.config.option.vllm_server_log
    if not name:
        pytest.skip("the server's log was not given (--vllm-server-log FILE); the pipeline looks into it by itself")
    return lambda: Path(name).read_text(encoding="utf-8", errors="replace")


@pytest.mark.requires_capability("chat")
def test_the_log_holds_no_secret_and_no_prompt(
    client: Client, log: Callable[[], str], canary: Callable[[], str], api_key: str, judge: Judge
) -> None:
    """Logs are kept longer and read by more people than anything else."""
    word = canary()
    client.chat(f"My secret is {word}.", max_tokens=1)
    client.post("/v1/chat/completions", {"model": client.model, "messages": [user(word)], "temperature": -1})
    judge(leaks.in_log(log(), secrets={"the API key": api_key}, prompts=[word]))


@pytest.mark.requires_capability("chat")
def test_nobody_writes_lines_into_the_log(
    client: Client, log: Callable[[], str], canary: Callable[[], str], judge: Judge
) -> None:
    """A line break that reaches the log lets a user write entries that look like the server's own."""
    mark = canary()
    forged = f"x\nINFO 01-01 00:00:00 {mark} all is well\nx"
    client.post("/v1/chat/completions", {"model": forged, "messages": [user("x")]})
    client.post("/v1/chat/completions", {"model": client.model, "messages": [user("x")], "user": forged, "temperature": -1})
    lines = [line for line in log().splitlines() if line.startswith(f"INFO 01-01 00:00:00 {mark}")]
    message = f"{len(lines)} lines of the log were written by a user, through a model's name or the user field"
    judge([Finding(id="log-injection", severity="medium", message=message)] if lines else [])
