"""Run the suite ``grpc`` against a double, inside this process, and see which cases fail."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from unittest import mock

import pytest

from doubles.grpc_double import GrpcDouble, running
from doubles.suiterun import SUITES, SuiteRun
from vllm_ci.suites.grpc import alive, test_deadlines, test_errors

KEY_ENV = "VLLM_CI_DOUBLE_GRPC_KEY"
KEY = "dOuBlE-grpc-key-0123456789"


def run(make: Callable[[], GrpcDouble], cases: Iterable[str] = (), *, given: Iterable[str] = ()) -> SuiteRun:
    """Run cases of the suite, by default all, against a double of this kind.

    Args:
        make: Makes the double.
        cases: Cases to run (``test_health.py``, ``test_health.py::test_x``).
        given: Further options.
    """
    with running(make) as (address, _):
        return against(address, cases, given=given)


def against(address: str, cases: Iterable[str] = (), *, given: Iterable[str] = ()) -> SuiteRun:
    """Run cases of the suite against the service at an address."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            *("-p", "vllm_ci.suites.plugin", "-p", "pytest_base_url.plugin", "-p", "no:cacheprovider", "--tb=short"),
            *("-p", "no:unraisableexception", "-p", "no:threadexception"),
            *("-c", "/dev/null", "--rootdir", folder, "--vllm-grpc", address, "--vllm-report", folder, "-q", "--no-header"),
            *("--vllm-return", "0", *given),
            *(str(SUITES / "grpc" / case) for case in (list(cases) or [""])),
        ]
        output = io.StringIO()
        with contextlib.redirect_stdout(output), _short_waits(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # modules of the suites are imported already, by an earlier run
            # Looking for installed plugins takes a tenth of a second, many times; the one that is needed is named.
            with mock.patch.dict(os.environ, {KEY_ENV: KEY}), mock.patch.object(metadata, "distributions", list):
                code = pytest.main(arguments)
        file = Path(folder) / "cases.json"
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
    """A double responds faster than a real server, or never."""
    with (
        mock.patch.object(alive, "BETWEEN_S", 0.05),
        mock.patch.object(alive, "ANSWER_S", 1.0),
        mock.patch.object(test_errors, "_BOUND_S", 1.0),
        mock.patch.object(test_deadlines, "_DEADLINE_S", 0.2),
        mock.patch.object(test_deadlines, "_LEAST_S", 0.8),
    ):
        yield
