"""Health says something else than what is so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grpc_health.v1 import health_pb2

from doubles.grpc_defects.catalogue import defect
from doubles.grpc_double import CODES, NOT_SERVING, SERVING, GrpcDouble
from doubles.grpc_messages import ENGINE, message


@defect("grpc-not-serving", "test_health.py::test_the_server_says_that_it_serves")
class NotServing(GrpcDouble):
    """Health of the whole server is NOT_SERVING while it serves."""

    def health(self, service: str) -> int | None:
        return int(NOT_SERVING) if not service else super().health(service)


@defect("grpc-engine-not-serving", "test_health.py::test_the_service_of_the_engine_says_that_it_serves")
class EngineNotServing(GrpcDouble):
    """Health of the engine's service is NOT_SERVING while it serves."""

    def health(self, service: str) -> int | None:
        return int(NOT_SERVING) if service == ENGINE else super().health(service)


@defect("grpc-everything-serves", "test_health.py::test_an_unknown_service_is_not_found")
class EverythingServes(GrpcDouble):
    """Health of a service that does not exist is SERVING."""

    def health(self, service: str) -> int | None:  # noqa: ARG002
        return int(SERVING)


@defect("grpc-unknown-health-is-an-error", "test_health.py::test_an_unknown_service_is_not_found")
class UnknownHealthIsAnError(GrpcDouble):
    """Health of a service that does not exist ends with INTERNAL."""

    def check(self, request: Any, context: Any) -> Any:
        if self.health(request.service) is None:
            context.abort(CODES.INTERNAL, "no such service")
        return super().check(request, context)


@defect(
    "grpc-no-health",
    "test_health.py::test_the_server_says_that_it_serves",
    "test_health.py::test_the_service_of_the_engine_says_that_it_serves",
)
class NoHealth(GrpcDouble):
    """The health service is not there."""

    def check(self, _request: Any, context: Any) -> Any:
        context.abort(CODES.UNIMPLEMENTED, "Method not found!")


@defect("grpc-silent-watch", "test_health.py::test_the_stream_of_health_begins_with_the_status")
class SilentWatch(GrpcDouble):
    """The stream of health ends without a status."""

    def watch(self, _request: Any, _context: Any) -> Iterator[Any]:
        yield from ()


@defect("grpc-watch-lies", "test_health.py::test_the_stream_of_health_begins_with_the_status")
class WatchLies(GrpcDouble):
    """The stream of health begins with NOT_SERVING while the server serves."""

    def watch(self, _request: Any, _context: Any) -> Iterator[Any]:
        yield health_pb2.HealthCheckResponse(status=NOT_SERVING)


@defect("grpc-unhealthy", "test_health.py::test_the_engine_says_that_it_is_healthy")
class Unhealthy(GrpcDouble):
    """HealthCheck says that the engine is not healthy while it serves."""

    def health_check(self, _request: Any, _context: Any) -> Any:
        return message("HealthCheckResponse")(healthy=False, message="Engine is not alive")
