"""All manifests of a channel in the order in which they are applied, as one text or as a kustomize base."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vllm_ci.manifests import controllers, kserve, network, workload
from vllm_ci.manifests.app import UNPINNED, App
from vllm_ci.system import yaml_text

Manifest = dict[str, Any]


def manifests(app: App) -> dict[str, Manifest]:
    """Name of the file -> object."""
    if app.kserve:
        found = {"llminferenceservice.yaml": kserve.inference_service(app, app.kserve)}
    else:
        found = {"programs.yaml": workload.programs(app), **_workload(app)}
    found["poddisruptionbudget.yaml"] = workload.disruption_budget(app)
    if app.network_policy:
        found["networkpolicy.yaml"] = network.network_policy(app)
    if app.service_monitor:
        found["servicemonitor.yaml"] = network.service_monitor(app)
    return found


def _workload(app: App) -> dict[str, Manifest]:
    found: dict[str, Manifest] = {"service.yaml": network.service(app)}
    if app.rollout:
        found["service-canary.yaml"] = network.service(app, controllers.CANARY)
        found["rollout.yaml"] = controllers.rollout(app, app.rollout)
        if app.rollout.suites_image:
            found["analysistemplate.yaml"] = controllers.analysis_template(app, app.rollout)
    else:
        found["deployment.yaml"] = workload.deployment(app)
    if app.autoscaling:
        found["autoscaler.yaml"] = workload.autoscaler(app, app.autoscaling)
    if app.route:
        found["httproute.yaml"] = network.http_route(app, _routed(app))
    return found


def _routed(app: App) -> Any:
    """The route; a Rollout moves the weights of its two services itself, from all on the stable one on."""
    if app.route and app.rollout:
        return replace(app.route, weights={app.name: 100, f"{app.name}{controllers.CANARY}": 0})
    return app.route


def text(app: App) -> str:
    """All of them, for ``kubectl apply -f``."""
    return yaml_text.dump_all(manifests(app).values())


def base(app: App, image: str) -> dict[str, str]:
    """Files of a kustomize base; the overlay of the channel in the ledger's branch sets the image.

    Args:
        app: Whose image and commit are left out.
        image: Name of the image's entry in the overlay.
    """
    unpinned = replace(app, image=f"{image}@{UNPINNED}", commit="")
    files = {name: yaml_text.dump(each) for name, each in manifests(unpinned).items()}
    listed = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": list(files)}
    return {"kustomization.yaml": yaml_text.dump(listed), **files}
