"""Run suites against a double, inside this process, and see which cases fail."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

import vllm_ci.suites
from doubles.running import running
from doubles.server import Double
from vllm_ci.suites.security import test_denial
from vllm_ci.suites.streaming import test_disconnect

_KEY_ENV = "VLLM_CI_DOUBLE_KEY"
KEY = "dOuBlE-key-0123456789"
SUITES = Path(vllm_ci.suites.__file__).parent


@dataclass(frozen=True, kw_only=True)
class SuiteRun:
    """What came of it.

    Attributes:
        statuses: Of every case, by name.
        messages: Of those that did not pass.
        output: What pytest printed.
        facts: About the session.
    """

    statuses: Mapping[str, str]
    messages: Mapping[str, str]
    output: str
    facts: Mapping[str, object]

    def with_status(self, *wanted: str) -> set[str]:
        """Names of cases that ended in one of these ways, each with and without its parameters."""
        found = {name for name, status in self.statuses.items() if status in wanted}
        return found | {name.partition("[")[0] for name in found}

    @property
    def failed(self) -> set[str]:
        """Names of cases that say that something is wrong."""
        return self.with_status("failed", "errored")


def run(make: type[Double], cases: Iterable[str], *, key: bool = False, budget_s: float = 0) -> SuiteRun:
    """Run cases (a suite, a file of it, or single cases as ``security/test_auth.py::test_x``) against a double of this kind.

    Args:
        make: The double.
        cases: What to run.
        key: It asks for an API key.
        budget_s: Seconds; 0 for all at full size, next to nothing for all at their least size.
    """
    with tempfile.TemporaryDirectory() as folder, _environment(key=key):
        log = Path(folder) / "server.log"
        with running(lambda: make(key=KEY if key else "", file=log)) as (url, _):
            arguments = [
                *("-p", "vllm_ci.suites.plugin", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:timeout", "--tb=short"),
                # It collects garbage at each end, which takes longer than most of what is run here.
                *("-p", "no:unraisableexception", "-p", "no:hypothesispytest"),
                *("-c", "/dev/null", "--rootdir", folder, "--base-url", url, "--vllm-report", folder, "-q", "--no-header"),
                *("--vllm-server-log", str(log), "--vllm-timeout", "20", "--vllm-budget", f"{budget_s:g}"),
                *(("--vllm-api-key-env", _KEY_ENV) if key else ()),
                *(str(SUITES / case) for case in cases),
            ]
            output = io.StringIO()
            with contextlib.redirect_stdout(output), _impatient(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # modules of the suites are imported already, by an earlier run
                pytest.main(arguments)
        document = json.loads((Path(folder) / "cases.json").read_text(encoding="utf-8"))
    return SuiteRun(
        statuses={case["name"]: case["status"] for case in document["cases"]},
        messages={case["name"]: case["message"] for case in document["cases"] if case["message"]},
        output=output.getvalue(),
        facts=document["session"],
    )


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """A double does at once what it does at all: nobody has to wait for it as long as for a real server."""
    with (
        mock.patch.object(test_disconnect, "_PATIENCE_S", 1.5),
        mock.patch.object(test_denial, "_BOUND_S", 4.0),
    ):
        yield


@contextlib.contextmanager
def _environment(*, key: bool) -> Iterator[None]:
    before = os.environ.get(_KEY_ENV)
    if key:
        os.environ[_KEY_ENV] = KEY
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_KEY_ENV, None)
        else:
            os.environ[_KEY_ENV] = before
