"""Run suites against a double, inside this process, and see which cases fail."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from unittest import mock

import pytest

import vllm_ci.suites
from doubles.running import running
from doubles.server import Double
from vllm_ci.suites.plugins import mixing, vital
from vllm_ci.suites.security import bystander, test_denial
from vllm_ci.suites.streaming import test_disconnect

_KEY_ENV = "VLLM_CI_DOUBLE_KEY"
KEY = "dOuBlE-key-0123456789"
SUITES = Path(vllm_ci.suites.__file__).parent


@dataclass(frozen=True, kw_only=True)
class SuiteRun:
    """Result of a run.

    Attributes:
        statuses: Status of every case, by name.
        messages: Messages of the cases that did not pass.
        output: Output of pytest.
        facts: Facts about the session.
        findings: Findings of all cases.
        exchanges: Last request and response of the cases that have them, by name.
        causes: Ids of the causes that cases recorded, by name.
    """

    statuses: Mapping[str, str]
    messages: Mapping[str, str]
    output: str
    facts: Mapping[str, object]
    findings: Sequence[Mapping[str, str]] = ()
    exchanges: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    causes: Mapping[str, str] = field(default_factory=dict)

    def with_status(self, *wanted: str) -> set[str]:
        """Names of cases with one of these statuses, each with and without its parameters."""
        found = {name for name, status in self.statuses.items() if status in wanted}
        return found | {name.partition("[")[0] for name in found}

    @property
    def failed(self) -> set[str]:
        """Names of cases that failed or errored."""
        return self.with_status("failed", "errored")


def run(
    make: type[Double],
    cases: Iterable[str],
    *,
    key: bool = False,
    budget_s: float = 0,
    patient: bool = False,
    timeout_s: float = 0,
    causes: bool = True,
) -> SuiteRun:
    """Run cases (a suite, a file of it, or single cases as ``security/test_auth.py::test_x``) against a double of this kind.

    Args:
        make: The double.
        cases: Cases to run.
        key: The double requires an API key.
        budget_s: Time budget; 0 for all cases at full size, nearly 0 for all at their smallest size.
        patient: Wait as long for the double as for a real server. A correct double needs no more time for it, and does not fail
            on a busy machine; defects that are found by a timeout are found sooner without it.
        timeout_s: Timeout for one response; 0 for a long one.
        causes: Have a server whose answers differ tested for mixed-up answers, which takes longer than most cases.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with running(lambda: make(key=KEY if key else "", file=log)) as (url, _):
            arguments = [
                *("--base-url", url, "--vllm-server-log", str(log), "--vllm-budget", f"{budget_s:g}"),
                *("--vllm-timeout", f"{timeout_s or (120 if patient else 20):g}"),
                *(("--vllm-api-key-env", _KEY_ENV) if key else ()),
                *(str(SUITES / case) for case in cases),
            ]
            waits = contextlib.nullcontext() if patient else _short_waits()
            with contextlib.nullcontext() if causes else mock.patch.object(mixing, "_tested", return_value=None):
                return in_process(arguments, Path(folder), waits=waits, env={_KEY_ENV: KEY} if key else {})


def in_process(
    arguments: Iterable[str], folder: Path, *, waits: AbstractContextManager[None], env: Mapping[str, str]
) -> SuiteRun:
    """Run pytest with the plugin of the suites in this process, and read its report.

    Args:
        arguments: Further options, and the cases.
        folder: For the report.
        waits: Entered while it runs, to shorten timeouts.
        env: Environment variables while it runs.
    """
    common = [
        *("-p", "vllm_ci.suites.plugin", "-p", "pytest_base_url.plugin", "-p", "no:cacheprovider", "--tb=short"),
        # It collects garbage at each end, which takes longer than most of what is run here.
        *("-p", "no:unraisableexception"),
        *("-c", "/dev/null", "--rootdir", str(folder), "--vllm-report", str(folder), "-q", "--no-header"),
    ]
    output = io.StringIO()
    with contextlib.redirect_stdout(output), waits, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # modules of the suites are imported already, by an earlier run
        # Looking for installed plugins takes a tenth of a second, hundreds of times; the one that is needed is named.
        with mock.patch.dict(os.environ, env), mock.patch.object(metadata, "distributions", list):
            code = pytest.main([*common, *arguments])
    file = folder / "cases.json"
    assert file.exists(), f"pytest ended with {code}: {output.getvalue()}"
    document = json.loads(file.read_text(encoding="utf-8"))
    return SuiteRun(
        statuses={case["name"]: case["status"] for case in document["cases"]},
        messages={case["name"]: case["message"] for case in document["cases"] if case["message"]},
        output=output.getvalue(),
        facts=document["session"],
        findings=[finding for case in document["cases"] for finding in case["properties"].get("findings", ())],
        exchanges={case["name"]: found for case in document["cases"] if (found := case["properties"].get("exchange"))},
        causes={case["name"]: found["id"] for case in document["cases"] if (found := case["properties"].get("cause"))},
    )


@contextlib.contextmanager
def _short_waits() -> Iterator[None]:
    """Shorten the timeouts of the cases: a double responds faster than a real server, or never."""
    with (
        mock.patch.object(test_disconnect, "_PATIENCE_S", 1.5),
        mock.patch.object(test_denial, "_BOUND_S", 4.0),
        mock.patch.object(test_denial, "_LONGEST_S", 6.0),
        mock.patch.object(bystander, "fair_s", lambda waited_s, _seen: waited_s),  # defects are found on busy machines, too
        mock.patch.object(vital, "_ANSWER_S", 3.0),
        mock.patch.object(vital, "_HANGS_S", 6.0),
    ):
        yield
