"""What Envoy starts with: where its files are, its admin interface, and limits of the whole process."""

from __future__ import annotations

from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.targets.envoy.files import ADMIN_SOCKET, CLUSTERS, LISTENERS, Json, typed, watched

ADMIN_CLUSTER = "admin"
# Finer than Envoy's own, for quantiles in Prometheus.
_BUCKETS_MS = (
    *(1, 2, 3, 5, 7.5, 10, 15, 20, 30, 40, 50, 75, 100, 125, 150, 200, 250, 300, 400, 500, 600, 750, 1000, 1250, 1500, 2000),
    *(
        2500,
        3000,
        4000,
        5000,
        6000,
        7500,
        10000,
        12500,
        15000,
        20000,
        30000,
        45000,
        60000,
        90000,
        120000,
        180000,
        300000,
        600000,
    ),
)


def bootstrap(settings: GatewaySettings) -> Json:
    """The bootstrap configuration; paths are relative to Envoy's working directory."""
    return {
        "node": {"id": "gateway", "cluster": "vllm-ci"},
        # Whoever reaches the admin interface can stop Envoy, so it is a socket that only this user can open.
        "admin": {"address": {"pipe": {"path": ADMIN_SOCKET, "mode": 0o600}}},
        "dynamic_resources": {"lds_config": watched(LISTENERS), "cds_config": watched(CLUSTERS)},
        "static_resources": {"clusters": [_admin_cluster()]},
        "stats_flush_interval": "1s",
        "stats_config": {
            "histogram_bucket_settings": [{"match": {"suffix": "upstream_rq_time"}, "buckets": list(_BUCKETS_MS)}]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": typed(
                        "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        {"max_active_downstream_connections": settings.max_connections},
                    ),
                }
            ]
        },
    }


def _admin_cluster() -> Json:
    """The admin interface as a cluster, of which the listener for metrics shows one path."""
    endpoint = {"endpoint": {"address": {"pipe": {"path": ADMIN_SOCKET}}}}
    return {
        "name": ADMIN_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": ADMIN_CLUSTER, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
