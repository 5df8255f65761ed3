"""How a request waits for a server where a deployment is scaled to zero: Envoy's filter for external authorization.

While it is scaled to zero, the routes switch the filter on. It asks the waker, which answers 200 when a server is ready and 429
when the request cannot wait; Envoy makes that a 503, because it takes 500 and above for a failure of the waker. While
servers run, the filter is off, and no request depends on the waker.
"""

from __future__ import annotations

from vllm_ci.domain.gateway import Waiting
from vllm_ci.targets.envoy.files import Json, typed

WAKER = "waker"
"""Name of the cluster."""
SOCKET = "waker.sock"
METRICS_PATH = "/metrics/scaling"
_FILTER = "vllm_ci.waker"
# The waker answers in time; this is for one that hangs.
_LATE_S = 60.0
# A waker that was killed is started again, and those that wait ask the new one: ten times within about a minute.
_RETRIES = 10


def filters(waiting: Waiting | None) -> list[Json]:
    """The filter, switched off; none where there is always a server."""
    if waiting is None:
        return []
    most = f"{waiting.wait_s + _LATE_S:g}s"
    again = {"retry_on": "connect-failure,reset,refused-stream,reset-before-request", "num_retries": _RETRIES}
    service = {
        "server_uri": {"uri": "http://waker", "cluster": WAKER, "timeout": most},
        "authorization_response": {"allowed_client_headers": {"patterns": [{"exact": "retry-after"}]}},
        # The longest interval between two tries is the limit of each try as well.
        "retry_policy": {**again, "retry_back_off": {"base_interval": "0.1s", "max_interval": most}},
    }
    content = {
        "http_service": service,
        "allowed_headers": {"patterns": [{"exact": "x-request-id"}]},
        "disallowed_headers": {"patterns": [{"exact": "authorization"}]},
        "failure_mode_allow": True,
    }
    filter_ = typed("extensions.filters.http.ext_authz.v3.ExtAuthz", content)
    return [{"name": _FILTER, "typed_config": filter_, "disabled": True}]


def switched_on() -> Json:
    """Settings of a route whose requests wait."""
    return {_FILTER: typed("config.route.v3.FilterConfig", {"config": {}, "disabled": False})}


def refused(form: Json) -> Json:
    """The status of a request that cannot wait, in a form of error."""
    return {"filter": {"response_flag_filter": {"flags": ["UAEX"]}}, "status_code": 503, "body_format_override": form}


def cluster(waiting: Waiting) -> Json:
    """The way to the waker; it refuses what is too much itself."""
    most = 2 * waiting.queue + 1024
    limits = {"max_connections": most, "max_pending_requests": most, "max_requests": most, "max_retries": most}
    return typed(
        "config.cluster.v3.Cluster",
        {
            "name": WAKER,
            "type": "STATIC",
            "connect_timeout": "2s",
            "circuit_breakers": {"thresholds": [limits]},
            "load_assignment": {
                "cluster_name": WAKER,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": SOCKET}}}}]}],
            },
        },
    )
