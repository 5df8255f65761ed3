"""Run the suite ``grpc`` against a double, inside this process, and see which cases fail."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from doubles.grpc_double import GrpcDouble, running
from doubles.grpc_messages import ENGINE, POOL
from doubles.suiterun import SUITES, SuiteRun, in_process
from vllm_ci.suites.grpc import alive, test_deadlines, test_errors

KEY_ENV = "VLLM_CI_DOUBLE_GRPC_KEY"
KEY = "dOuBlE-grpc-key-0123456789"


def run(
    make: Callable[[], GrpcDouble], cases: Iterable[str] = (), *, given: Iterable[str] = (), patient: bool = False
) -> SuiteRun:
    """Run cases of the suite, by default all, against a double of this kind.

    Args:
        make: Makes the double.
        cases: Cases to run (``test_health.py``, ``test_health.py::test_x``).
        given: Further options.
        patient: Wait as long for an answer as for that of a real server (:func:`doubles.suiterun.run`).
    """
    with running(make) as (address, _):
        return against(address, cases, given=given, patient=patient)


def against(address: str, cases: Iterable[str] = (), *, given: Iterable[str] = (), patient: bool = False) -> SuiteRun:
    """Run cases of the suite against the service at an address."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            *("-p", "no:threadexception", "--vllm-grpc", address, "--vllm-return", "0", *given),
            *(str(SUITES / "grpc" / case) for case in (list(cases) or [""])),
        ]
        return in_process(arguments, Path(folder), waits=_short_waits(patient=patient), env={KEY_ENV: KEY})


def package() -> Any:
    """What the package ``smg-grpc-proto`` has, with the messages of the double."""
    described = SimpleNamespace(services_by_name={"VllmEngine": POOL.FindServiceByName(ENGINE)})
    return SimpleNamespace(vllm_engine_pb2=SimpleNamespace(DESCRIPTOR=described))


@contextlib.contextmanager
def _short_waits(*, patient: bool) -> Iterator[None]:
    """A double responds faster than a real server, or never; its answers take less time than deadlines are tested with."""
    with contextlib.ExitStack() as stack:
        patches: list[tuple[object, str, float]] = [
            (alive, "BETWEEN_S", 0.05),
            (test_deadlines, "_DEADLINE_S", 0.2),
            (test_deadlines, "_LEAST_S", 0.8),
            *([] if patient else [(alive, "ANSWER_S", 1.0), (test_errors, "_BOUND_S", 1.0)]),
        ]
        for module, name, seconds in patches:
            stack.enter_context(mock.patch.object(module, name, seconds))
        yield
