"""What ``vllm-ci test --url`` found: run as a user runs it, and read from ``report.json``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers.programs import Running

_KEY_ENV = "SERVERS_TEST_KEY"
_LONGEST_S = 3000.0
_STARTS_S = 300.0
"""What a server that is started again may need."""
_SEVERITIES = ("low", "medium", "high", "critical")
_FAIL_ON = "medium"  # the default of the suites
_DECIDED = ("passed", "failed")
_BODY = re.compile(r":? [\[{<]")  # a body after a status
STAGES = ("integration", "streaming", "security")


# The reasons of vllm_ci.suites.machine.Seen.starved.
_STARVED = re.compile(
    r"tasks waited for a processor|tasks were runnable for each processor|the host gave \d+% of"
    r"|a timer of the tests was \d+ ms late"
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A finding that failed a case, or a case that failed, errored or was inconclusive.

    Attributes:
        id: Id of the finding, or name of the case.
        status: Status of the case.
        message: In one line.
    """

    id: str
    status: str
    message: str

    @property
    def not_run(self) -> bool:
        """Whether the case was not run because the server was gone."""
        return self.status == "errored" and self.message.startswith("not run")

    @property
    def busy(self) -> bool:
        """Whether nothing is known because this machine had no processor time; how much must be known, ``judged`` says."""
        return self.status == "inconclusive" and _STARVED.search(self.message) is not None


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Result of a run.

    Attributes:
        verdict: Its verdict.
        seconds: Its wall time.
        facts: What the report says about the server.
        findings: All cases that neither passed nor were skipped, by their findings.
        judged: Cases that passed or failed, by suite.
        skipped: Skipped cases by reason.
        version: Version that the server reports; empty if it reports none.
    """

    verdict: str
    seconds: float
    facts: Mapping[str, Any]
    findings: tuple[Found, ...]
    judged: Mapping[str, int]
    skipped: Mapping[str, int]

    @property
    def version(self) -> str:
        """Version that the server reports."""
        return str(self.facts.get("version") or "")


def run(server: Running, work: Path) -> Observed:
    """Run all suites against a server.

    Raises:
        AssertionError: There is no report.
    """
    names = [word for stage in STAGES for word in ("--stage", stage)]
    key = ("--api-key-env", _KEY_ENV) if server.key else ()
    model = ("--model", server.model) if server.model else ()
    wait = ("--restart-wait", f"{_STARTS_S:g}") if server.again else ()
    reports = work / "reports"
    command = [sys.executable, "-m", "vllm_ci", "test", "--url", server.url, *names, *key, *model, *wait]
    env = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_CI_") or name == "VLLM_CI_HOME"}
    ended = subprocess.run(
        [*command, "--report-dir", str(reports), "--json"],
        cwd=work,
        env={**env, **(server.env or {}), _KEY_ENV: server.key},
        capture_output=True,
        text=True,
        timeout=_LONGEST_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert ended.stdout.strip(), f"exit code {ended.returncode} and no summary:\n{ended.stderr[-4000:]}"
    directory = Path(json.loads(ended.stdout)["report_dir"])
    return read(json.loads((directory / "report.json").read_text(encoding="utf-8")))


def read(report: Mapping[str, Any]) -> Observed:
    """The result that a report (``report.json``) holds."""
    stages = {stage["name"]: stage for stage in report["stages"]}
    cases = [case for stage in stages.values() for case in stage["cases"]]
    facts = next((server for stage in stages.values() if (server := stage["facts"].get("server"))), report["server"])
    problem = report.get("problem")
    troubles = [Found(id="problem", status="errored", message=f"{problem['summary']}: {problem['cause']}")] if problem else []
    return Observed(
        verdict=report["verdict"],
        seconds=report["seconds"],
        facts=facts,
        findings=(*troubles, *(found for case in cases for found in _findings(case))),
        judged={name: sum(case["status"] in _DECIDED for case in stage["cases"]) for name, stage in stages.items()},
        skipped=dict(Counter(_reason(case["message"]) for case in cases if case["status"] == "skipped")),
    )


def _findings(case: Mapping[str, Any]) -> list[Found]:
    status, message = case["status"], _line(case["message"])
    if status in ("passed", "skipped"):
        return []
    accepted = case["properties"].get("accepted", ())
    listed = [
        Found(id=each["id"], status=status, message=f"[{each['severity']}] {_line(each['message'])}")
        for each in case["properties"].get("findings", ())
        if each["id"] not in accepted and _SEVERITIES.index(each["severity"]) >= _SEVERITIES.index(_FAIL_ON)
    ]
    return listed or [Found(id=case["name"], status=status, message=message)]


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def _reason(message: str) -> str:
    """The reason of a skip without what differs from run to run (numbers of a body, ids)."""
    return _BODY.split(_line(message))[0][:110]
