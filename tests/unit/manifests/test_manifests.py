"""Manifests of a channel: what they say, and what hostile names and values make of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.manifests import bundle, names, pod
from vllm_ci.manifests.app import App, Autoscaling, CanaryRollout, HttpRoute, Model

DIGEST = "sha256:" + "a" * 64
IMAGE = f"registry.example.com/team/vllm@{DIGEST}"
PLAIN = App(
    name="chat-production", channel="production", image=IMAGE, commit="0" * 40, model=Model(served_name="m", name="org/model")
)
FULL = replace(
    PLAIN,
    namespace="chat",
    args=("--max-model-len=2048",),
    env={"OMP_NUM_THREADS": "4"},
    secrets={"HF_TOKEN": "HF_TOKEN", "VLLM_API_KEY": "VLLM_API_KEY"},
    secret="chat-production",
    gpus=2,
    cpu="8",
    memory="64Gi",
    node_selector={"pool": "gpu"},
    pull_secret="registry",
    runtime_class="nvidia",
    clients=("monitoring",),
    service_monitor=True,
    autoscaling=Autoscaling(by="hpa", least=1, most=4, waiting=8),
    route=HttpRoute(
        gateway="public",
        gateway_namespace="gateways",
        hostnames=("llm.example.com",),
        weights={"chat-production": 95, "chat-staging": 5},
        mirror="chat-staging",
        mirror_percent=10,
    ),
)
ROLLOUT = replace(FULL, rollout=CanaryRollout(steps=((5, 60.0), (50, None), (100, 60.0)), suites_image=IMAGE))
KEDA = replace(FULL, autoscaling=Autoscaling(by="keda", least=0, most=4, waiting=8, prometheus="http://prometheus:9090"))
MODELS = {
    "tiny": Model(served_name="m", tiny='{"layers": 2}'),
    "image": Model(served_name="m", image=IMAGE),
    "claim": Model(served_name="m", claim="weights"),
    "hub": Model(served_name="m", name="org/model", revision="abc"),
    "cached": Model(served_name="m", name="org/model", cache_claim="hub"),
}
APPS = {"plain": PLAIN, "full": FULL, "rollout": ROLLOUT, "keda": KEDA} | {
    f"model-{name}": replace(PLAIN, model=model) for name, model in MODELS.items()
}


def rendered(app: App) -> dict[str, dict[str, Any]]:
    """Objects by kind and name, read back from the text."""
    objects = list(yaml.safe_load_all(bundle.text(app)))
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in objects}


def podspec(app: App) -> dict[str, Any]:
    found = rendered(app)
    key = "Rollout" if app.rollout else "Deployment"
    spec: dict[str, Any] = found[f"{key}/{app.name}"]["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("name", APPS)
def test_the_same_channel_gives_the_same_bytes_without_anchors(name: str) -> None:
    text = bundle.text(APPS[name])
    assert text == bundle.text(replace(APPS[name]))
    assert "&id" not in text


@pytest.mark.parametrize("name", APPS)
def test_every_image_is_named_by_digest(name: str) -> None:
    images = [found for each in rendered(APPS[name]).values() for found in values(each, "image") if isinstance(found, str)]
    assert images
    assert all("@sha256:" in each for each in images)


def values(content: Any, key: str) -> list[Any]:
    """Everything that is under a key, at any depth."""
    if isinstance(content, list):
        return [found for each in content for found in values(each, key)]
    if isinstance(content, dict):
        return [found for name, each in content.items() for found in ([each] if name == key else []) + values(each, key)]
    return []


@pytest.mark.parametrize("name", APPS)
def test_pods_are_restricted_and_end_after_their_streams(name: str) -> None:
    app = APPS[name]
    spec = podspec(app)
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    for each in (*spec.get("initContainers", []), *spec["containers"]):
        assert each["securityContext"]["readOnlyRootFilesystem"] is True
        assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert each["securityContext"]["allowPrivilegeEscalation"] is False
    [container] = spec["containers"]
    timeout = int(container["args"][container["args"].index("--shutdown-timeout") + 1])
    assert spec["terminationGracePeriodSeconds"] > timeout + container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert timeout == app.drain_s


@pytest.mark.parametrize("name", APPS)
def test_every_mount_has_its_volume_and_every_volume_is_mounted(name: str) -> None:
    spec = podspec(APPS[name])
    mounted = {mount["name"] for each in spec["containers"] for mount in each["volumeMounts"]}
    assert mounted == {each["name"] for each in spec["volumes"]}
    paths = [mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("name", APPS)
def test_selectors_find_the_pods_and_hold_nothing_that_changes_with_a_release(name: str) -> None:
    app = APPS[name]
    found = rendered(app)
    key = f"{'Rollout' if app.rollout else 'Deployment'}/{app.name}"
    labels = found[key]["spec"]["template"]["metadata"]["labels"]
    for selector in (found[key]["spec"]["selector"]["matchLabels"], found[f"Service/{app.name}"]["spec"]["selector"]):
        assert selector.items() <= labels.items()
        assert app.commit not in selector.values()


def test_a_server_starts_when_it_has_answered_and_is_not_ended_for_being_busy() -> None:
    container = podspec(PLAIN)["containers"][0]
    assert container["startupProbe"]["exec"]["command"][:2] == ["python", "/vllm-ci/ready.py"]
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= PLAIN.ready_timeout_s
    alive = container["livenessProbe"]
    assert alive["periodSeconds"] * alive["failureThreshold"] >= 300


def test_the_programs_of_the_probes_are_those_that_ship() -> None:
    from vllm_ci.programs import FOLDER

    data = rendered(APPS["model-tiny"])["ConfigMap/chat-production-programs"]["data"]
    assert data == {name: (FOLDER / name).read_text() for name in ("ready.py", "tiny_model.py")}
    assert len(json.dumps(data)) < 1_000_000  # etcd's limit


@pytest.mark.parametrize(
    ("name", "volume"),
    [
        ("tiny", {"name": "model", "emptyDir": {}}),
        ("image", {"name": "model", "image": {"reference": IMAGE, "pullPolicy": "IfNotPresent"}}),
        ("claim", {"name": "model", "persistentVolumeClaim": {"claimName": "weights", "readOnly": True}}),
        ("cached", {"name": "hub", "persistentVolumeClaim": {"claimName": "hub"}}),
    ],
)
def test_a_model_comes_from_its_volume(name: str, volume: dict[str, Any]) -> None:
    assert volume in podspec(APPS[f"model-{name}"])["volumes"]


def test_a_model_of_the_hub_is_loaded_by_name_and_commit_and_only_it_may_go_out() -> None:
    arguments = pod.arguments(APPS["model-hub"])
    assert arguments[:4] == ("--model", "org/model", "--revision", "abc")
    hub = rendered(APPS["model-hub"])["NetworkPolicy/chat-production"]["spec"]["egress"]
    claim = rendered(APPS["model-claim"])["NetworkPolicy/chat-production"]["spec"]["egress"]
    assert {port["port"] for rule in hub for port in rule["ports"]} == {53, 443}
    assert {port["port"] for rule in claim for port in rule["ports"]} == {53}


def test_gpus_memory_and_shared_memory_are_asked_for() -> None:
    spec = podspec(FULL)
    assert spec["containers"][0]["resources"] == {
        "requests": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": "2"},
    }
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}} in spec["volumes"]


@pytest.mark.slow
def test_an_autoscaled_workload_has_no_number_of_its_own() -> None:
    assert "replicas" not in rendered(FULL)["Deployment/chat-production"]["spec"]
    assert rendered(PLAIN)["Deployment/chat-production"]["spec"]["replicas"] == 1
    target = rendered(ROLLOUT)["HorizontalPodAutoscaler/chat-production"]["spec"]["scaleTargetRef"]
    assert target["kind"] == "Rollout"
    assert rendered(KEDA)["ScaledObject/chat-production"]["spec"]["minReplicaCount"] == 0


def test_a_route_carries_weights_and_copies_and_only_v1() -> None:
    [rule] = rendered(FULL)["HTTPRoute/chat-production"]["spec"]["rules"]
    assert [(each["name"], each["weight"]) for each in rule["backendRefs"]] == [("chat-production", 95), ("chat-staging", 5)]
    assert rule["filters"][0]["requestMirror"] == {"backendRef": {"name": "chat-staging", "port": 80}, "percent": 10}
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/v1"}}]


def test_the_gateways_namespace_may_connect() -> None:
    [rule] = rendered(FULL)["NetworkPolicy/chat-production"]["spec"]["ingress"]
    allowed = [each["namespaceSelector"]["matchLabels"] for each in rule["from"] if "namespaceSelector" in each]
    assert [next(iter(each.values())) for each in allowed] == ["gateways", "monitoring"]


@pytest.mark.slow
def test_a_rollout_tests_the_new_pods_first_and_waits_for_a_person_where_it_is_told_to() -> None:
    canary = rendered(ROLLOUT)["Rollout/chat-production"]["spec"]["strategy"]["canary"]
    analysis = {"analysis": {"templates": [{"templateName": "chat-production-suites"}]}}
    assert canary["steps"] == [{"setWeight": 5}, analysis, {"pause": {"duration": "60s"}}, {"setWeight": 50}, {"pause": {}}]
    assert canary["canaryService"] == "chat-production-canary"
    backends = rendered(ROLLOUT)["HTTPRoute/chat-production"]["spec"]["rules"][0]["backendRefs"]
    assert [(each["name"], each["weight"]) for each in backends] == [("chat-production", 100), ("chat-production-canary", 0)]
    assert "Deployment/chat-production" not in rendered(ROLLOUT)


def test_the_job_of_a_rollout_calls_options_that_exist() -> None:
    from vllm_ci.cli.run import test as command

    job = rendered(ROLLOUT)["AnalysisTemplate/chat-production-suites"]["spec"]["metrics"][0]["provider"]["job"]
    [container] = job["spec"]["template"]["spec"]["containers"]
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in container["command"] if word.startswith("--")} <= known
    variables = {parameter.envvar for parameter in command.params if hasattr(parameter, "envvar")}
    assert {each["name"] for each in container["env"]} - {"VLLM_CI_HOME", "VLLM_API_KEY"} <= variables


HOSTILE = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


@pytest.mark.slow
@given(served=HOSTILE, flag=HOSTILE, value=HOSTILE)
def test_hostile_text_stays_one_value_of_one_object(served: str, flag: str, value: str) -> None:
    app = replace(PLAIN, model=Model(served_name=served, name="m"), args=(flag,), env={"A": value})
    objects = rendered(app)
    assert len(objects) == len(rendered(PLAIN))
    [container] = podspec(app)["containers"]
    assert container["args"][-1] == names.literal(flag)
    assert {"name": "A", "value": names.literal(value)} in container["env"]


def expanded(text: str) -> str:
    """What Kubernetes makes of an argument (``k8s.io/kubernetes/third_party/forked/golang/expansion``); variables are ``!``."""
    made, rest = "", text
    while rest:
        if rest[0] != "$" or len(rest) == 1:
            made, rest = made + rest[0], rest[1:]
        elif rest[1] == "$":
            made, rest = made + "$", rest[2:]
        elif rest[1] == "(" and ")" in rest:
            made, rest = made + "!", rest[rest.index(")") + 1 :]
        else:
            made, rest = made + rest[:2], rest[2:]
    return made


@given(st.text(alphabet="$()A{} ", max_size=12))
def test_kubernetes_reads_an_argument_as_it_was_written(text: str) -> None:
    assert expanded(names.literal(text)) == text


def test_the_way_kubernetes_expands_is_understood() -> None:
    assert [expanded(each) for each in ("$(A)", "$$(A)", "$A", "$$A", "a$", "$(A")] == ["!", "$(A)", "$A", "$A", "a$", "$(A"]


@pytest.mark.parametrize("value", ["", "-a", "a-", "A", "a_b", "a.b", "a" * 64, "a\n", "ä", "a b", "a/b"])
def test_names_that_are_no_dns_labels_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="DNS label"):
        names.dns_label(value)


@pytest.mark.parametrize("value", ["-a", "a" * 64, "a b", "a\n", "ä", "a/b", "{{x}}"])
def test_values_that_labels_cannot_have_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="label"):
        names.label_value(value)


@pytest.mark.parametrize("value", ["vllm", "vllm:latest", "vllm@sha256:abc", f"vllm@{DIGEST}\n", f"a b@{DIGEST}", f"@{DIGEST}"])
def test_images_without_a_digest_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="by digest"):
        names.pinned(value)


def test_a_base_names_no_release() -> None:
    first = bundle.base(FULL, "vllm")
    assert first == bundle.base(replace(FULL, image=IMAGE.replace("a", "b"), commit="1" * 40), "vllm")
    assert set(yaml.safe_load(first["kustomization.yaml"])["resources"]) == set(first) - {"kustomization.yaml"}
    assert "0" * 64 in first["deployment.yaml"]


def test_pods_of_a_rollout_that_two_services_lead_to_are_scraped_once() -> None:
    made = bundle.manifests(ROLLOUT)
    [endpoint] = made["servicemonitor.yaml"]["spec"]["endpoints"]
    set_to = {each["targetLabel"]: each["replacement"] for each in endpoint["relabelings"]}
    # The operator gives targets these labels by their Service; all others are those of the pod.
    assert set_to == {"channel": "production", "job": "chat-production", "service": "chat-production"}
    plain = bundle.manifests(FULL)["servicemonitor.yaml"]["spec"]["endpoints"][0]["relabelings"]
    assert [each["targetLabel"] for each in plain] == ["channel"]
