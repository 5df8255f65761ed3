"""The suite of gRPC is tested: each defect is named by the case that is there for it, and nothing legal fails."""

from __future__ import annotations

import pytest

from doubles import grpc_run
from doubles.grpc_defects import DEFECTS
from doubles.grpc_double import GrpcDouble
from doubles.grpc_legal import VARIATIONS
from doubles.table import cases_of
from vllm_ci.suites.grpc import reaching
from vllm_ci.suites.machine import Watch

_TRIES = 3


def test_the_correct_server_passes_every_case() -> None:
    found = grpc_run.run(GrpcDouble, patient=True)
    assert set(found.statuses.values()) == {"passed"}, found.messages
    assert found.facts["server"]["double"] is True  # type: ignore[index]


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_legal_variation_passes(name: str) -> None:
    kind, touched = VARIATIONS[name]
    found = grpc_run.run(kind, touched, patient=True)
    assert not found.with_status("failed", "errored", "inconclusive"), found.messages
    assert found.with_status("passed")


# Their cases measure the course of time, so they run beside few others.
_TIMED = ("grpc-held-back", "grpc-one-piece")


@pytest.mark.parametrize("name", [pytest.param(each, marks=pytest.mark.timing if each in _TIMED else ()) for each in DEFECTS])
def test_a_defect_is_named(name: str) -> None:
    defect = DEFECTS[name]
    with Watch() as watch:
        for _ in range(_TRIES):  # a busy machine can hide what a defect does to the course of time
            found = grpc_run.run(defect.make, defect.named)
            missed = {case for case in defect.named if f"grpc/{case}" not in found.with_status("failed")}
            if not missed:
                return
    if name in _TIMED and watch.seen.starved:
        pytest.skip(f"this machine had no processor time to tell: {watch.seen.starved}")
    pytest.fail(f"{defect.what} That is not named by {sorted(missed)}: {found.messages or found.output[-2000:]}")


@pytest.mark.parametrize("name", ["grpc-stream-loses-a-token", "grpc-streams-mixed-up", "grpc-loses-tokens-under-load"])
def test_a_defect_of_streams_is_named_on_a_slow_server_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaching, "_slowness", lambda _: 3.0)
    found = grpc_run.run(DEFECTS[name].make, DEFECTS[name].named)
    assert {f"grpc/{case}" for case in DEFECTS[name].named} <= found.with_status("failed"), found.messages


def test_every_case_is_named_by_a_defect() -> None:
    named = {f"grpc/{case.partition('[')[0]}" for defect in DEFECTS.values() for case in defect.named}
    cases = set(cases_of("grpc"))
    assert named <= cases, f"no such cases: {sorted(named - cases)}"
    assert cases <= named, f"no defect makes these fail: {sorted(cases - named)}"


def test_a_server_that_dies_is_said_once() -> None:
    kills = DEFECTS["grpc-mistakes-kill"].make
    found = grpc_run.run(kills, ["test_errors.py", "test_health.py"])
    died = [name for name, cause in found.causes.items() if cause == "server-died"]
    assert died == ["grpc/test_errors.py::test_an_invalid_request_is_refused[an invalid grammar-whole]"]
    assert found.statuses[died[0]] == "failed"
    not_run = [name for name, cause in found.causes.items() if cause == "server-gone"]
    assert "grpc/test_health.py::test_the_server_says_that_it_serves" in not_run
    assert "seen first after" in found.messages[not_run[0]]
