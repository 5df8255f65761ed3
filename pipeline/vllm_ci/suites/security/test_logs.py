"""The server's log contains no secrets, no prompts, and no lines written by users."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from vllm_ci.suites import leaks
from vllm_ci.suites.client import ApiClient, user
from vllm_ci.suites.findings import Finding
from vllm_ci.suites.security.door import Door, together
from vllm_ci.suites.security.reflecting import PLACES, Mirror, woven

Judge = Callable[[Iterable[Finding]], None]

_NOT_GIVEN = "the server's log was not given (--vllm-server-log FILE); a pipeline that runs the server checks it itself"


@pytest.fixture
def log(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Reads the current log; if it is not available here, the pipeline checks it after the run, for the same words."""

    def read() -> str:
        name = request.config.option.vllm_server_log
        if not name:
            pytest.skip(_NOT_GIVEN)
        return Path(name).read_text(encoding="utf-8", errors="replace")

    return read


def test_the_log_holds_no_secret_and_no_prompt(
    client: ApiClient, log: Callable[[], str], canary: Callable[[], str], api_key: str, judge: Judge
) -> None:
    """Logs are kept for long and read by many people."""
    word = canary()
    client.post(client.path, client.body(f"My secret is {word}.", max_tokens=1))
    client.post(client.path, client.body(f"My secret is {word}.", max_tokens=1, stream=True))
    client.post(client.path, client.body(word, temperature=-1))
    judge(leaks.in_log(log(), secrets={"the API key": api_key}, prompts=[word]))


@pytest.mark.requires_capability("chat")
def test_nobody_writes_lines_into_the_log(
    client: ApiClient, log: Callable[[], str], canary: Callable[[], str], judge: Judge
) -> None:
    """Line breaks in user text must not create log entries that look like the server's."""
    word = canary()
    text = leaks.forged(word)
    client.post("/v1/chat/completions", {"model": text, "messages": [user("x")]})
    client.post("/v1/chat/completions", {"model": client.model, "messages": [user("x")], "user": text, "temperature": -1})
    judge(finding for finding in leaks.in_log(log(), secrets={}, prompts=[word]) if finding.id == "log-injection")


@pytest.mark.parametrize("place", PLACES)
def test_no_part_of_a_request_writes_lines_into_the_log(
    door: Door, log: Callable[[], str], canary: Callable[[], str], judge: Judge, place: str
) -> None:
    """Headers, fields, the path and the query are logged too, and what is encoded in them may be decoded first (CWE-117)."""
    word = canary()
    asks = ("chat",) if place.startswith("field:") else ("models",)
    tried = [(mirror, ends) for ask in asks for mirror in [Mirror(door=door, place=place, ask=ask)] for ends in mirror.groups]
    together(lambda each: each[0].sent(woven(each[1], lambda _end: leaks.forged_line(word), last="x")), tried)
    found = [each for each in leaks.in_log(log(), secrets={}, prompts=[word]) if each.id == "log-injection"]
    judge(Finding(id=f"log-injection:{place}", severity=each.severity, message=f"{each.message}, in {place}") for each in found)
