"""For a controller that people run already: Argo Rollouts in place of the Deployment."""

from __future__ import annotations

import math
from typing import Any

from vllm_ci.manifests import pod
from vllm_ci.manifests.app import App, CanaryRollout
from vllm_ci.manifests.names import literal
from vllm_ci.manifests.workload import counted

CANARY = "-canary"


def rollout(app: App, canary: CanaryRollout) -> dict[str, Any]:
    """A ``Rollout``: weights by the HTTPRoute where there is one (its Gateway API plugin), else by the number of pods."""
    services = {"stableService": app.name, "canaryService": f"{app.name}{CANARY}"}
    routed = {"httpRoute": app.name, "namespace": app.namespace} if app.namespace else {"httpRoute": app.name}
    routing = {"trafficRouting": {"plugins": {"argoproj-labs/gatewayAPI": routed}}} if app.route else {}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Rollout",
        "metadata": app.metadata(),
        "spec": {
            **counted(app),
            "revisionHistoryLimit": 5,
            "minReadySeconds": 10,
            "progressDeadlineSeconds": int(app.ready_timeout_s) + 120,
            "progressDeadlineAbort": True,
            "selector": {"matchLabels": app.selector},
            "strategy": {"canary": {**services, **routing, "steps": _steps(app, canary)}},
            "template": pod.template(app),
        },
    }


def _steps(app: App, canary: CanaryRollout) -> list[dict[str, Any]]:
    """The suites first, while few users are on the new pods; a weight of 100 is what comes after the last step anyway."""
    steps: list[dict[str, Any]] = []
    for index, (weight, seconds) in enumerate(canary.steps):
        if weight < 100:
            steps += [{"setWeight": weight}]
            if index == 0 and canary.suites_image:
                steps.append({"analysis": {"templates": [{"templateName": f"{app.name}-suites"}]}})
            if seconds is None:
                steps.append({"pause": {}})
            elif seconds:
                steps.append({"pause": {"duration": f"{math.ceil(seconds)}s"}})
    return steps


def analysis_template(app: App, canary: CanaryRollout) -> dict[str, Any]:
    """A job that runs the suites against the new pods; one failure aborts."""
    stages = [word for stage in canary.stages for word in ("--stage", stage)]
    url = f"http://{app.name}{CANARY}"
    key = [each for each in ("VLLM_API_KEY",) if each in app.secrets]
    container = {
        "name": "suites",
        "image": canary.suites_image,
        "command": ["vllm-ci", "test", "--url", url, "--model", literal(app.model.served_name), *stages, "--json"],
        "env": [
            {"name": "VLLM_CI_HOME", "value": "/scratch"},
            {"name": "VLLM_CI_REPORT_DIR", "value": "/scratch/runs"},
            *({"name": each, "valueFrom": {"secretKeyRef": {"name": app.secret, "key": app.secrets[each]}}} for each in key),
            *({"name": "VLLM_CI_API_KEY_ENV", "value": each} for each in key),
        ],
        "workingDir": "/scratch",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }
    job_pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "scratch", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
    }
    job = {"spec": {"backoffLimit": 0, "activeDeadlineSeconds": 3600, "template": {"spec": job_pod}}}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": app.metadata("-suites"),
        "spec": {"metrics": [{"name": "suites", "provider": {"job": job}, "failureLimit": 0}]},
    }
