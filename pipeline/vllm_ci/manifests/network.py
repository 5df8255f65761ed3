"""How requests reach the pods, and which may: Service, NetworkPolicy, HTTPRoute, ServiceMonitor."""

from __future__ import annotations

from typing import Any

from vllm_ci.manifests.app import App, HttpRoute

PREFIX = "/v1"
"""Of what clients may ask for: the rest of vLLM's routes, ``/metrics`` and ``/invocations`` among them, is not for them."""
_NAMESPACE = "kubernetes.io/metadata.name"


def service(app: App, suffix: str = "") -> dict[str, Any]:
    """One address for the pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": app.metadata(suffix),
        "spec": {
            "type": "ClusterIP",
            "selector": app.selector,
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}],
        },
    }


def network_policy(app: App) -> dict[str, Any]:
    """Requests from its own namespace and those that are named; out only to names, and to the hub where the model is there."""
    gateway = {app.route.gateway_namespace} - {""} if app.route else set()
    outside = [{"namespaceSelector": {"matchLabels": {_NAMESPACE: name}}} for name in sorted({*app.clients, *gateway})]
    sources = [{"podSelector": {}}, *outside]
    names = {"ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]}
    hub = [{"ports": [{"protocol": "TCP", "port": 443}]}] if app.model.name else []
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": app.metadata(),
        "spec": {
            "podSelector": {"matchLabels": app.selector},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": sources, "ports": [{"protocol": "TCP", "port": "http"}]}],
            "egress": [names, *hub],
        },
    }


def http_route(app: App, route: HttpRoute) -> dict[str, Any]:
    """Only ``PREFIX``."""
    backends = [{"name": name, "port": 80, "weight": weight} for name, weight in sorted(route.weights.items())]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": app.metadata(),
        "spec": {
            "parentRefs": [parent(route)],
            **hosts(route),
            "rules": [rule(PREFIX, backends, filters=[_mirror(route)] if route.mirror else [])],
        },
    }


def parent(route: HttpRoute) -> dict[str, str]:
    """The Gateway."""
    return {"name": route.gateway, **({"namespace": route.gateway_namespace} if route.gateway_namespace else {})}


def hosts(route: HttpRoute) -> dict[str, list[str]]:
    """Host names, if there are any."""
    return {"hostnames": list(route.hostnames)} if route.hostnames else {}


def rule(path: str, backends: list[dict[str, Any]], *, filters: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Requests below a path, without a timeout: a stream may take long."""
    return {
        "matches": [{"path": {"type": "PathPrefix", "value": path}}],
        **({"filters": filters} if filters else {}),
        "backendRefs": backends,
        "timeouts": {"request": "0s"},
    }


def _mirror(route: HttpRoute) -> dict[str, Any]:
    copied = {"backendRef": {"name": route.mirror, "port": 80}, "percent": route.mirror_percent}
    return {"type": "RequestMirror", "requestMirror": copied}


def service_monitor(app: App) -> dict[str, Any]:
    """The label ``channel`` is the one that rules and ``vllm-ci watch`` look for."""
    # Both Services of a Rollout lead to the same pods between two changes. Prometheus scrapes targets with equal labels once.
    # Else each pod would count twice, for autoscaling too: the operator sets these two labels to the Service's name.
    once = {"job": app.name, "service": app.name} if app.rollout else {}
    labels = {"channel": app.channel, **once}
    relabelings = [{"targetLabel": name, "replacement": value, "action": "replace"} for name, value in labels.items()]
    endpoints: list[dict[str, Any]] = [{"port": "http", "path": "/metrics", "interval": "15s", "relabelings": relabelings}]
    if app.kserve:  # its Service has one port, which is called after the scheme; certificates are KServe's own
        tls = {"scheme": "https", "tlsConfig": {"insecureSkipVerify": True}}
        endpoints.append({**endpoints[0], "port": "https", **tls})
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": app.metadata(),
        "spec": {"selector": {"matchLabels": app.selector}, "endpoints": endpoints},
    }
