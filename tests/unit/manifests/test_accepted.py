"""A real API server takes every manifest: a dry run and then for good, with strict validation of fields."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from standin import cluster
from unit.manifests import test_kserve
from unit.manifests.test_manifests import APPS
from vllm_ci.manifests import bundle
from vllm_ci.monitoring import rules

pytestmark = pytest.mark.needs_tool
PLURALS = {
    "ConfigMap": "configmaps",
    "Service": "services",
    "Deployment": "deployments",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "NetworkPolicy": "networkpolicies",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "HTTPRoute": "httproutes",
    "ServiceMonitor": "servicemonitors",
    "PrometheusRule": "prometheusrules",
    "ScaledObject": "scaledobjects",
    "Rollout": "rollouts",
    "AnalysisTemplate": "analysistemplates",
    "LLMInferenceService": "llminferenceservices",
}
ALL = APPS | {f"kserve-{name}": app for name, app in test_kserve.APPS.items()}
CORE = {"ConfigMap", "Service", "Deployment", "PodDisruptionBudget", "NetworkPolicy", "HorizontalPodAutoscaler"}


def path(manifest: dict[str, Any], namespace: str) -> str:
    version = manifest["apiVersion"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{root}/namespaces/{namespace}/{PLURALS[manifest['kind']]}/{manifest['metadata']['name']}"


def accepted(server: cluster.Server, manifest: dict[str, Any]) -> bool:
    """Whether it was tried: the kind must be installed."""
    if manifest["kind"] not in CORE | server.kinds:
        return False
    namespace = manifest["metadata"].get("namespace", "manifests")
    server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}, f"/api/v1/namespaces/{namespace}")
    body = {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}
    for dry_run in (True, False):
        server.apply(body, path(manifest, namespace), dry_run=dry_run)
    return True


@pytest.mark.parametrize("name", ALL)
def test_every_manifest_of_a_channel_is_accepted(name: str) -> None:
    server = cluster.shared()
    manifests = list(yaml.safe_load_all(bundle.text(ALL[name])))
    left = [each["kind"] for each in manifests if not accepted(server, each)]
    if left:
        pytest.skip(f"the rest was accepted; without definitions (VLLM_CI_TEST_CRDS): {', '.join(left)}")


def test_the_operators_rules_are_accepted() -> None:
    server = cluster.shared()
    made = rules.operator([rules.Watched(channel="production", labels={"channel": "production"})], name="vllm-ci")
    if not accepted(server, made):
        pytest.skip("no definition of PrometheusRule (VLLM_CI_TEST_CRDS)")


def test_the_server_refuses_what_is_wrong() -> None:
    server = cluster.shared()
    [deployment] = [each for each in bundle.manifests(APPS["plain"]).values() if each["kind"] == "Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(OSError, match=r"400|422|500"):
        accepted(server, deployment)
