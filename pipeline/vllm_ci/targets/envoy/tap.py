"""How requests and answers are recorded, for comparisons and for the log: Envoy's tap filter, off until somebody listens.

Copies go through a listener of their own, a socket in Envoy's directory, so that they have lines in the access log and pass the
same filter. A request and its copy have the same ``x-request-id``.
"""

from __future__ import annotations

from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.targets.envoy.clusters import http2
from vllm_ci.targets.envoy.files import Json, typed

TAP = "vllm_ci.tap"
"""Name of the filter, and the id by which a listener asks for what it records."""
REQUESTS = "vllm_ci.requests"
"""The same for the filter whose listener keeps the request log."""
SHADOW = "shadow"
"""Name of the listener, the cluster and the routes that copies take."""
SHADOW_SOCKET = "shadow.sock"
SHADOW_HEADER = "x-vllm-ci-copy"
"""Header of copies, for the recorder and for servers; clients cannot set it."""


def tap(*, on: bool, name: str = TAP) -> Json:
    """The filter; where it is off, a route can switch it on."""
    content = {"common_config": {"admin_config": {"config_id": name}}, "record_headers_received_time": True}
    return {"name": name, "typed_config": typed("extensions.filters.http.tap.v3.Tap", content), "disabled": not on}


def switched_on() -> Json:
    """Settings of a route whose requests are recorded."""
    return {TAP: typed("config.route.v3.FilterConfig", {"config": {}, "disabled": False})}


def shadow_cluster(settings: GatewaySettings) -> Json:
    """The way from the gateway to the listener for copies."""
    most_requests = settings.max_open_requests
    address = {"pipe": {"path": SHADOW_SOCKET}}
    limits = {"max_connections": most_requests, "max_pending_requests": most_requests, "max_requests": most_requests}
    return typed(
        "config.cluster.v3.Cluster",
        {
            "name": SHADOW,
            "type": "STATIC",
            "connect_timeout": "2s",
            "circuit_breakers": {"thresholds": [limits]},
            **(http2() if settings.protocol == "grpc" else {}),
            "load_assignment": {
                "cluster_name": SHADOW,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
        },
    )
