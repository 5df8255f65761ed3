"""The pods' controllers and limits: Deployment, its programs, PodDisruptionBudget, autoscalers."""

from __future__ import annotations

from typing import Any

from vllm_ci.manifests import pod
from vllm_ci.manifests.app import App, Autoscaling
from vllm_ci.programs import FOLDER

METRIC = "vllm_num_requests_waiting"
"""Name of ``vllm:num_requests_waiting`` in the custom metrics API, whose names hold no colon."""


def programs(app: App) -> dict[str, Any]:
    """The programs that probes and the generator run, by the image's own Python."""
    names = ("ready.py", "tiny_model.py") if app.model.tiny else ("ready.py",)
    data = {name: (FOLDER / name).read_text(encoding="utf-8") for name in names}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": app.metadata("-programs"), "data": data}


def deployment(app: App) -> dict[str, Any]:
    """Pods of one image, replaced a few at a time."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": app.metadata(),
        "spec": {
            **counted(app),
            "revisionHistoryLimit": 5,
            "minReadySeconds": 10,
            "progressDeadlineSeconds": int(app.ready_timeout_s) + 120,  # more than a slow start takes
            "selector": {"matchLabels": app.selector},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": app.surge, "maxUnavailable": app.unavailable},
            },
            "template": pod.template(app),
        },
    }


def counted(app: App) -> dict[str, int]:
    """Number of pods, unless an autoscaler sets it: to apply it again would undo that."""
    return {} if app.autoscaling else {"replicas": app.replicas}


def disruption_budget(app: App) -> dict[str, Any]:
    """One pod at a time may be evicted; a single one may be, too: else its node could never be emptied."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": app.metadata(),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": app.selector}},
    }


def autoscaler(app: App, scaling: Autoscaling) -> dict[str, Any]:
    """By the number of waiting requests."""
    kind = "Rollout" if app.rollout else "Deployment"
    target = {"apiVersion": "argoproj.io/v1alpha1" if app.rollout else "apps/v1", "kind": kind, "name": app.name}
    return _hpa(app, scaling, target) if scaling.by == "hpa" else _keda(app, scaling, target)


def _hpa(app: App, scaling: Autoscaling, target: dict[str, str]) -> dict[str, Any]:
    metric = {"metric": {"name": METRIC}, "target": {"type": "AverageValue", "averageValue": str(scaling.waiting)}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": app.metadata(),
        "spec": {
            "scaleTargetRef": target,
            "minReplicas": scaling.least,
            "maxReplicas": scaling.most,
            "metrics": [{"type": "Pods", "pods": metric}],
            "behavior": _behavior(),
        },
    }


def _behavior() -> dict[str, Any]:
    """Up at once, down slowly: a server takes minutes to start."""
    return {
        "scaleUp": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 100, "periodSeconds": 60}]},
        "scaleDown": {"stabilizationWindowSeconds": 300, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}]},
    }


def _keda(app: App, scaling: Autoscaling, target: dict[str, str]) -> dict[str, Any]:
    series = f'vllm:num_requests_waiting{{channel="{app.channel}"}}'
    trigger = {"serverAddress": scaling.prometheus, "query": f"sum({series})", "threshold": str(scaling.waiting)}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": app.metadata(),
        "spec": {
            "scaleTargetRef": target,
            "minReplicaCount": scaling.least,
            "maxReplicaCount": scaling.most,
            "pollingInterval": 15,
            "cooldownPeriod": 300,
            # Without metrics it does not shrink.
            "fallback": {"failureThreshold": 4, "replicas": max(1, scaling.least), "behavior": "currentReplicasIfHigher"},
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior()}},
            "triggers": [{"type": "prometheus", "metricType": "AverageValue", "metadata": trigger}],
        },
    }
