"""Manifests for KServe: the pod is ours as far as KServe's template lets it be, and KServe's definition accepts the service."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from standin import cluster, structural
from unit.manifests.test_manifests import FULL, IMAGE, MODELS, PLAIN, rendered, values
from vllm_ci.manifests import bundle, kserve, pod
from vllm_ci.manifests.app import App, HttpRoute, KServe

OWN = KServe(entry_point=("/opt/vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server"))
ROUTE = HttpRoute(gateway="public", gateway_namespace="gateways", hostnames=("llm.example.com",))
SMALL = replace(PLAIN, kserve=OWN)
WHOLE = replace(FULL, autoscaling=None, route=ROUTE, replicas=3, kserve=OWN)
SCHEDULED = replace(WHOLE, kserve=replace(OWN, scheduler=True))
APPS = {"small": SMALL, "whole": WHOLE, "scheduled": SCHEDULED} | {
    f"model-{name}": replace(SMALL, model=model) for name, model in MODELS.items() if name != "tiny"
}


def service(app: App) -> dict[str, Any]:
    made: dict[str, Any] = rendered(app)[f"LLMInferenceService/{app.name}"]
    return made


def main(app: App) -> dict[str, Any]:
    [container] = service(app)["spec"]["template"]["containers"]
    assert container["name"] == "main"
    found: dict[str, Any] = container
    return found


def test_one_service_stands_for_deployment_service_and_route() -> None:
    kinds = {name.partition("/")[0] for name in rendered(WHOLE)}
    assert kinds == {"LLMInferenceService", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor"}
    made = service(WHOLE)
    assert (made["apiVersion"], made["metadata"]["namespace"]) == ("serving.kserve.io/v1alpha2", "chat")
    assert made["spec"]["replicas"] == 3


@pytest.mark.parametrize("name", APPS)
def test_the_same_channel_gives_the_same_bytes_and_every_image_is_named_by_digest(name: str) -> None:
    text = bundle.text(APPS[name])
    assert text == bundle.text(replace(APPS[name]))
    assert "&id" not in text
    images = [found for each in rendered(APPS[name]).values() for found in values(each, "image") if isinstance(found, str)]
    assert images == [IMAGE]


@pytest.mark.parametrize("name", APPS)
def test_the_pod_is_ours_but_for_what_the_template_of_kserve_dictates(name: str) -> None:
    app = APPS[name]
    ours = pod.spec(replace(app, kserve=None))
    theirs = service(app)["spec"]["template"]
    [here], [there] = ours.pop("containers"), theirs.pop("containers")
    volumes = [each for each in ours.pop("volumes") if each["name"] != "programs"]
    assert theirs.pop("volumes") == volumes
    for each in (ours, theirs):  # they name pods by the labels that these have
        [spread] = each.pop("topologySpreadConstraints")
        assert spread["labelSelector"]["matchLabels"]["app.kubernetes.io/instance"] == app.name
    assert theirs == ours
    assert there["args"][: len(here["args"])] == here["args"]
    assert there["env"][: len(here["env"])] == here["env"]
    assert there["volumeMounts"] == [each for each in here["volumeMounts"] if each["name"] != "programs"]
    changed = {"name", "command", "args", "env", "volumeMounts", "startupProbe", "lifecycle"}
    assert {key: value for key, value in there.items() if key not in changed} == {
        key: value for key, value in here.items() if key not in changed
    }


def test_the_pod_sleeps_as_long_as_ours_and_its_grace_period_is_longer_than_sleep_and_streams() -> None:
    container, spec = main(WHOLE), service(WHOLE)["spec"]["template"]
    [*program, slept] = container["lifecycle"]["preStop"]["exec"]["command"]
    assert (program, int(slept)) == (["/bin/sleep"], pod.LEAVE_S)
    assert spec["terminationGracePeriodSeconds"] > int(slept) + WHOLE.drain_s


def test_the_startup_probe_lasts_as_long_as_a_start_may_take_and_has_the_handler_of_the_template() -> None:
    probe = main(replace(WHOLE, ready_timeout_s=1801.0))["startupProbe"]
    assert set(probe) == {"httpGet", "periodSeconds", "timeoutSeconds", "failureThreshold"}
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 1801


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("image", f"oci://{IMAGE}"),
        ("claim", "pvc://weights"),
        ("hub", "hf://org/model:abc"),
        ("cached", "hf://org/model"),
    ],
)
def test_the_service_says_where_its_model_comes_from_and_the_pod_gets_it_as_ours(name: str, uri: str) -> None:
    spec = service(APPS[f"model-{name}"])["spec"]
    assert spec["model"] == {"uri": uri, "name": "m"}
    assert spec["storageInitializer"] == {"enabled": False}


def test_what_is_loaded_from_the_hub_is_kept_where_the_claim_is() -> None:
    env = {each["name"]: each["value"] for each in main(APPS["model-cached"])["env"]}
    [mount] = [each for each in main(APPS["model-cached"])["volumeMounts"] if each["name"] == "hub"]
    assert env["HF_HOME"] == mount["mountPath"]
    assert env["HF_HUB_CACHE"] == f"{mount['mountPath']}/hub"
    assert env["HOME"] == "/home/vllm"


def test_variables_that_are_set_stay_as_they_are() -> None:
    app = replace(APPS["model-hub"], env={"HOME": "/h", "HF_HUB_CACHE": "/c", "HF_HOME": "/f"})
    assert {each["name"]: each["value"] for each in main(app)["env"]} == app.env


def test_labels_of_pods_name_no_release_because_kserve_makes_the_selector_of_them() -> None:
    first, second = service(WHOLE), service(replace(WHOLE, commit="1" * 40, image=IMAGE.replace("a", "b")))
    assert first["spec"]["labels"] == second["spec"]["labels"]
    assert first["metadata"]["labels"] != second["metadata"]["labels"]
    assert first["spec"]["annotations"]["vllm-ci/commit"] != second["spec"]["annotations"]["vllm-ci/commit"]
    # KServe gives these itself, and finds pods by them.
    assert not {"app.kubernetes.io/name", "app.kubernetes.io/part-of", "kserve.io/component"} & set(first["spec"]["labels"])


def test_budget_policy_and_monitor_find_the_pods_by_the_labels_that_the_service_gives_them() -> None:
    found = rendered(WHOLE)
    labels = service(WHOLE)["spec"]["labels"]
    selectors = [
        found["PodDisruptionBudget/chat-production"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy/chat-production"]["spec"]["podSelector"]["matchLabels"],
        found["ServiceMonitor/chat-production"]["spec"]["selector"]["matchLabels"],
    ]
    assert all(each.items() <= labels.items() for each in selectors)
    ports = [each["port"] for each in found["ServiceMonitor/chat-production"]["spec"]["endpoints"]]
    assert ports == ["http", "https"]


def test_a_route_leads_only_to_v1() -> None:
    router = service(WHOLE)["spec"]["router"]
    assert router["gateway"] == {"refs": [{"name": "public", "namespace": "gateways"}]}
    spec = router["route"]["http"]["spec"]
    assert spec["hostnames"] == ["llm.example.com"]
    [rule] = spec["rules"]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/v1"}}]
    assert rule["backendRefs"] == [{"name": "chat-production-kserve-workload-svc", "port": 8000, "weight": 1}]
    assert rule["timeouts"] == {"request": "0s"}
    assert "scheduler" not in router
    assert "router" not in service(SMALL)["spec"]


def test_the_scheduler_gets_the_requests_that_it_reads_and_the_servers_the_rest() -> None:
    router = service(SCHEDULED)["spec"]["router"]
    assert router["scheduler"] == {}
    rules = router["route"]["http"]["spec"]["rules"]
    led = {each["matches"][0]["path"]["value"]: each["backendRefs"][0].get("kind", "Service") for each in rules}
    assert led == {**dict.fromkeys(kserve.SCHEDULED, "InferencePool"), "/v1": "Service"}


HOSTILE = st.text(alphabet='${}`"\\ (A.n)-', max_size=16)


@pytest.mark.slow
@given(flag=HOSTILE, value=HOSTILE)
def test_no_text_becomes_an_action_of_the_template(flag: str, value: str) -> None:
    app = replace(SMALL, args=(flag,), env={"A": value}, kserve=replace(OWN, entry_point=(f"x{flag}",)))
    made = copy.deepcopy(service(app))
    [container] = made["spec"]["template"]["containers"]
    assert [each.partition("=")[0] for each in container["args"][-2:]] == ["--ssl-certfile", "--ssl-keyfile"]
    del container["args"][-2:]
    assert "{{" not in json.dumps(made).replace("{{`{{`}}", "")


def test_a_base_names_no_release_and_only_the_files_that_it_has() -> None:
    files = bundle.base(WHOLE, "vllm")
    assert files == bundle.base(replace(WHOLE, image=IMAGE.replace("a", "b"), commit="1" * 40), "vllm")
    assert set(yaml.safe_load(files["kustomization.yaml"])["resources"]) == set(files) - {"kustomization.yaml"}
    assert "0" * 64 in files["llminferenceservice.yaml"]


def kubectl(folder: Path, *arguments: str) -> str:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH")
    env = {"HOME": str(folder), "KUBECONFIG": "/dev/null", "PATH": str(Path(shutil.which("kubectl") or "").parent)}
    done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, check=False, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def executed(folder: Path, template: str, *, tls: bool) -> str:
    """A Go template, with what KServe gives it."""
    data = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "GlobalConfig": {"EnableTLS": tls}}
    (folder / "data.yaml").write_text(yaml.safe_dump(data))
    (folder / "template").write_text(template)
    call = ("patch", "--local", "-f", "data.yaml", "--type=merge", "-p", "{}", "-o", "go-template-file=template")
    return kubectl(folder, *call)


@pytest.mark.slow
@pytest.mark.needs_tool
@settings(max_examples=5)
@given(texts=st.lists(HOSTILE, min_size=20, max_size=40))
def test_go_reads_text_as_it_was_written(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    written = json.dumps([kserve.verbatim(each) for each in [*texts, "{{", "{{{", "{{{{", "{{ .A }}", "{{`", "a{", '{{"{{"}}']])
    read = json.loads(executed(tmp_path_factory.mktemp("go"), written, tls=True))
    assert read[: len(texts)] == texts
    assert read[len(texts) :] == ["{{", "{{{", "{{{{", "{{ .A }}", "{{`", "a{", '{{"{{"}}']


@pytest.mark.needs_tool
def test_the_ledgers_overlay_pins_the_service(tmp_path: Path) -> None:
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    for folder in (base, overlay):
        folder.mkdir()
    for name, content in bundle.base(WHOLE, "vllm").items():
        (base / name).write_text(content)
    pinned = {"name": "vllm", "newName": "registry.example.com/team/vllm", "digest": IMAGE.partition("@")[2]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump({"resources": ["../base"], "images": [pinned]}))
    objects = list(yaml.safe_load_all(kubectl(tmp_path, "kustomize", str(overlay))))
    [found] = [each for each in objects if each["kind"] == "LLMInferenceService"]
    assert values(found["spec"], "image") == [IMAGE]


def definition(kind: str, name: Callable[[str], bool]) -> dict[str, Any]:
    """An object among the files that this machine has; skips where there is none."""
    for file in cluster.definitions():
        for each in structural.documents(file):
            if each.get("kind") == kind and name(each["metadata"]["name"]):
                return each
    pytest.skip(f"no {kind} of KServe: set VLLM_CI_TEST_CRDS to folders with its definitions (docs/kubernetes.md)")


def crd() -> structural.Schema:
    found = definition("CustomResourceDefinition", lambda name: name == "llminferenceservices.serving.kserve.io")
    return structural.schema_of(found, kserve.VERSION)


@pytest.mark.needs_tool
@pytest.mark.parametrize("name", APPS)
def test_the_definition_of_kserve_accepts_the_service(name: str) -> None:
    assert structural.problems(crd(), service(APPS[name])) == []


@pytest.mark.needs_tool
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda made: made["spec"].update(replica=1), "spec: Additional properties are not allowed ('replica'"),
        (lambda made: made["spec"].update(replicas="2"), "spec.replicas: '2' is not of type 'integer'"),
        (lambda made: made["spec"]["template"]["containers"][0].update(imagee="x"), "'imagee' was unexpected"),
        (lambda made: made["spec"]["template"]["containers"][0].pop("name"), "'name' is a required property"),
        (lambda made: made["spec"]["template"]["containers"][0]["resources"].update(limit={}), "'limit' was unexpected"),
        (lambda made: made["spec"]["template"]["volumes"][0]["emptyDir"].update(size="1Gi"), "'size' was unexpected"),
        (lambda made: made["spec"]["router"]["gateway"]["refs"][0].update(namespace="A"), "does not match"),
        (lambda made: made["spec"]["router"]["route"]["http"]["spec"]["rules"][0].update(timeouts={"request": 0}), "string"),
        (lambda made: made["spec"]["template"]["containers"].append({"name": "main"}), "('main',) occurs twice"),
        (lambda made: made["spec"]["storageInitializer"].update(enabled="no"), "is not of type 'boolean'"),
    ],
)
def test_the_definition_of_kserve_refuses_what_is_wrong(change: Callable[[dict[str, Any]], object], said: str) -> None:
    made = copy.deepcopy(service(WHOLE))
    change(made)
    assert any(said in each for each in structural.problems(crd(), made)), structural.problems(crd(), made)


def merged(app: App, folder: Path, *, tls: bool) -> dict[str, Any]:
    """The pod that KServe makes: its template, ours laid over it by the merge of kubectl, and the result executed."""
    template = definition("LLMInferenceServiceConfig", lambda name: name == "kserve-config-llm-template")["spec"]["template"]
    for name, spec in (("theirs", template), ("ours", service(app)["spec"]["template"])):
        holder = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "x"},
            "spec": {"template": {"spec": spec}},
        }
        (folder / f"{name}.json").write_text(json.dumps(holder))
    made = json.loads(
        kubectl(
            *(folder, "patch", "--local", "-f", "theirs.json", "--type=strategic", "--patch-file", "ours.json", "-o", "json")
        )
    )
    text = json.dumps(made["spec"]["template"]["spec"], ensure_ascii=False)
    named = re.sub(r"\{\{ ChildName \.ObjectMeta\.Name `([^`]*)` \}\}", rf"{app.name}\1", text)  # a function of KServe's own
    found: dict[str, Any] = json.loads(executed(folder, named, tls=tls))
    return found


@pytest.mark.needs_tool
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("name", APPS)
def test_what_kserve_makes_of_its_template_and_the_service_is_our_pod(name: str, tls: bool, tmp_path: Path) -> None:
    app = replace(APPS[name], args=("--override={{ .A }}",))
    spec = merged(app, tmp_path, tls=tls)
    whole = service(app)
    whole["spec"]["template"] = spec
    assert structural.problems(crd(), whole) == []  # KServe asks the API server the same
    [container] = spec["containers"]
    folder = "/var/run/kserve/tls" if tls else ""
    end = [f"--ssl-certfile={folder}{'/tls.crt' if tls else ''}", f"--ssl-keyfile={folder}{'/tls.key' if tls else ''}"]
    assert container["command"] == list(OWN.entry_point)
    assert container["args"] == [*pod.arguments(replace(app, args=())), "--override={{ .A }}", *end]
    handlers = [container[f"{each}Probe"] for each in ("startup", "readiness", "liveness")] + [
        container["lifecycle"]["preStop"]
    ]
    for each in handlers:  # Kubernetes refuses two
        assert len({"exec", "httpGet", "tcpSocket", "grpc", "sleep"} & set(each)) == 1
    assert {each["httpGet"]["scheme"] for each in handlers[:3]} == {"HTTPS" if tls else "HTTP"}
    assert container["readinessProbe"]["failureThreshold"] == 3
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert spec["terminationGracePeriodSeconds"] == pod.grace_s(app)
    paths = [each["mountPath"] for each in container["volumeMounts"]]
    assert len(set(paths)) == len(paths)
    sources = {each["name"]: [key for key in each if key != "name"] for each in spec["volumes"]}
    assert {each["name"] for each in container["volumeMounts"]} <= set(sources)
    assert all(len(each) == 1 for each in sources.values())
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert mounts["/dev/shm"] == "shm"
    env = {each["name"]: each for each in container["env"]}
    assert len(env) == len(container["env"])
    assert env["HOME"]["value"] == "/home/vllm"
    assert container["ports"] == [{"name": "http", "containerPort": 8000, "protocol": "TCP"}]
