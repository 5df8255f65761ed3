"""A revision as a cluster: its replicas, how they are chosen, and how those that do not answer are left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.targets.envoy.files import Json, cluster_name, endpoints_file, typed, watched


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A replica as the gateway reaches it.

    Attributes:
        port: On the loopback interface.
        draining: It gets no new requests; those that it has go on.
    """

    port: int
    draining: bool = False


def cluster(revision: str, settings: GatewaySettings) -> Json:
    """The cluster of a revision; its endpoints are in a file of their own, so that they change without a new cluster."""
    name, grpc = cluster_name(revision), settings.protocol == "grpc"
    limits = {
        "max_connections": settings.max_open_requests,
        "max_pending_requests": settings.max_open_requests,
        "max_requests": settings.max_open_requests,
        "max_retries": 64,
    }
    return typed(
        "config.cluster.v3.Cluster",
        {
            "name": name,
            "type": "EDS",
            "eds_cluster_config": {"eds_config": watched(endpoints_file(revision)), "service_name": name},
            "connect_timeout": "2s",
            "lb_policy": "LEAST_REQUEST",
            "least_request_lb_config": {"choice_count": 4},
            # A replica that fails its checks never gets a request, not even when no other is left.
            # Changes of health reach the workers at once, not in steps of a second.
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
            "ignore_health_on_host_removal": True,
            "circuit_breakers": {"thresholds": [limits]},
            "health_checks": [
                {
                    "timeout": "5s",
                    "interval": "1s",
                    "no_traffic_interval": "1s",
                    "no_traffic_healthy_interval": "1s",
                    "unhealthy_threshold": 2,
                    "healthy_threshold": 1,
                    **({"grpc_health_check": {}} if grpc else {"http_health_check": {"path": "/health"}}),
                }
            ],
            "outlier_detection": {
                "consecutive_5xx": 0,
                "enforcing_consecutive_5xx": 0,
                "consecutive_gateway_failure": 5,
                "enforcing_consecutive_gateway_failure": 100,
                "enforcing_success_rate": 0,
                # A replica whose connection breaks has probably died: until its next check it gets no requests.
                "split_external_local_origin_errors": True,
                "consecutive_local_origin_failure": 1,
                "enforcing_consecutive_local_origin_failure": 100,
                "enforcing_local_origin_success_rate": 0,
                "interval": "1s",
                "base_ejection_time": "5s",
                "max_ejection_percent": 50,
            },
            # uvicorn closes a connection after 5 s without a request; a request must not meet that.
            **(http2() if grpc else _protocol({"idle_timeout": "3s"}, "http_protocol_options")),
        },
    )


def http2() -> Json:
    """The settings of a cluster that gRPC goes to. It sends no pings, which older servers of gRPC end a connection for."""
    return _protocol({"idle_timeout": "300s"}, "http2_protocol_options")


def _protocol(common: Json, name: str) -> Json:
    kind = "extensions.upstreams.http.v3.HttpProtocolOptions"
    content = typed(kind, {"common_http_protocol_options": common, "explicit_http_config": {name: {}}})
    return {"typed_extension_protocol_options": {f"envoy.{kind}": content}}


def endpoints(revision: str, found: Iterable[Endpoint]) -> Json:
    """The replicas of a revision."""
    return typed(
        "config.endpoint.v3.ClusterLoadAssignment",
        {"cluster_name": cluster_name(revision), "endpoints": [{"lb_endpoints": [_endpoint(each) for each in found]}]},
    )


def _endpoint(found: Endpoint) -> Json:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": found.port}}
    return {"endpoint": {"address": address}, "health_status": "DRAINING" if found.draining else "UNKNOWN"}
