"""``vllm-ci test --url ... --restart-wait SECONDS`` goes on when a supervisor started a dead server again."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from doubles.running import running
from doubles.server import Double
from doubles.wire import Connection, Request, Response
from unit.cli.test_selecting import vllm_ci_test


class IsStartedAgain(Double):
    """Dies of a request without messages, as far as clients can tell, and is back a few seconds later; once."""

    down_s = 5.0
    back_at = 0.0

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if b'"messages": []' in request.body or b'"messages":[]' in request.body:
            self.back_at = self.back_at or time.monotonic() + self.down_s
        if time.monotonic() < self.back_at:
            return self.error(500, "EngineCore encountered an issue", "InternalServerError")
        return await super().routed(request, connection)


@pytest.mark.slow
@pytest.mark.parametrize(("wait", "not_run"), [("30", False), ("0", True)])
def test_the_other_cases_are_run_on_the_server_that_was_started_again(tmp_path: Path, wait: str, not_run: bool) -> None:
    arguments = ("--stage", "integration", "-k", "test_errors", "--restart-wait", wait)
    with running(IsStartedAgain) as (url, _):
        done = vllm_ci_test(tmp_path, "--url", url, *arguments)
    found = json.loads(done.stdout)
    cases = found["stages"][0]["cases"]
    assert found["verdict"] == "failed", done.stderr[-2000:]
    assert "the server died" in done.stdout
    assert bool(cases.get("errored")) == not_run, cases
    assert not_run or cases["passed"] > 10


def test_it_needs_a_url(tmp_path: Path) -> None:
    done = vllm_ci_test(tmp_path, "--restart-wait", "60")
    assert done.returncode == 2
    assert "--restart-wait needs --url" in done.stderr
