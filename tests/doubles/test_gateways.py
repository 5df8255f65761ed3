"""Nothing that a gateway may do is taken for a hole: the security suite passes behind each of them."""

from __future__ import annotations

import pytest

from doubles import suiterun
from doubles.legal_engines import OF_ENGINES
from doubles.legal_gateways import GATEWAYS
from doubles.server import Double
from doubles.test_conformance import trouble

# What a gateway changes; how much work a request may be is the same behind all of them.
_TOUCHED = tuple(
    f"security/test_{name}.py"
    for name in ("auth", "connections", "injection", "leaks", "logs", "reflection", "routes", "transport")
)
_OTHER_SURFACES = ("ChatOnly", "CompletionsOnly", "StrictFields", "AnyModelName", "LargeBodiesAre502")


@pytest.mark.parametrize("name", GATEWAYS)
def test_a_legal_gateway_passes(name: str) -> None:
    cases = [*_TOUCHED, *(["security/test_denial.py"] if name in _OTHER_SURFACES else [])]
    found = suiterun.run(GATEWAYS[name], cases, key=True, patient=True)
    assert not found.with_status("failed", "errored"), trouble(found)
    assert len(found.with_status("passed")) > len(found.statuses) / 3, trouble(found)


@pytest.mark.parametrize("kind", OF_ENGINES, ids=lambda kind: kind.__name__)
def test_another_engine_passes(kind: type[Double]) -> None:
    found = suiterun.run(kind, [*_TOUCHED, "security/test_denial.py"], key=True, patient=True)
    assert not found.with_status("failed", "errored"), trouble(found)
    assert len(found.with_status("passed")) > len(found.statuses) / 3, trouble(found)


@pytest.mark.parametrize("name", ["ChatOnly", "CompletionsOnly"])
def test_hostile_requests_are_sent_to_the_surface_that_a_server_has(name: str) -> None:
    found = suiterun.run(
        GATEWAYS[name], ["security/test_denial.py::test_a_hostile_request_does_no_harm"], key=True, patient=True
    )
    assert list(found.statuses.values()).count("passed") > 0.75 * len(found.statuses)
