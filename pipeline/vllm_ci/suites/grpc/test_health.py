"""Health: what Kubernetes probes and load balancers ask (gRPC health checking protocol, grpc.health.v1)."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1 import health_pb2

from vllm_ci.suites.grpc.client import Engine
from vllm_ci.suites.grpc.contract import ENGINE

SERVING = health_pb2.HealthCheckResponse.SERVING
_OF_NOBODY = "vllm_ci.no.such.Service"


def named(status: int) -> str:
    """The name of a status, for a message."""
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))


def test_the_server_says_that_it_serves(engine: Engine) -> None:
    """Probes ask for the service "", which stands for the whole server."""
    try:
        status = engine.health()
    except grpc.RpcError as error:
        pytest.fail(f"health of the whole server ends with {error.code().name}: {error.details()}", pytrace=False)
    assert status == SERVING, f"health of the whole server is {named(status)}"


def test_the_service_of_the_engine_says_that_it_serves(engine: Engine) -> None:
    """Readiness probes name the service; a server may know only the whole."""
    try:
        status = engine.health(ENGINE)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            pytest.skip(f"the health service speaks only for the whole server: {error.details()}")
        pytest.fail(f"health of {ENGINE} ends with {error.code().name}: {error.details()}", pytrace=False)
    assert status == SERVING, f"health of {ENGINE} is {named(status)}"


def test_an_unknown_service_is_not_found(engine: Engine) -> None:
    """A probe with a misspelled name must not be told that all is well."""
    try:
        status = engine.health(_OF_NOBODY)
    except grpc.RpcError as error:
        found = error.code().name
    else:
        found = named(status)
    assert found == grpc.StatusCode.NOT_FOUND.name, f"health of an unknown service is {found} instead of NOT_FOUND"


def test_the_stream_of_health_begins_with_the_status(engine: Engine) -> None:
    """Clients that balance load watch the health; the protocol lets a server leave this method out."""
    try:
        status = engine.watched()
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            pytest.skip("the server does not offer Watch")
        pytest.fail(f"Watch ends with {error.code().name}: {error.details()}", pytrace=False)
    assert status is not None, "Watch ends without a status"
    assert status == SERVING, f"Watch begins with {named(status)}"


def test_the_engine_says_that_it_is_healthy(engine: Engine) -> None:
    """VLLM's own method, which its router asks."""
    found = engine.call("HealthCheck")
    assert found.healthy, f"HealthCheck says that the engine is not healthy: {found.message}"
