"""The pure parts of target ``kubernetes``: objects of revisions and routes, statuses of pods, and what metrics tell."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.config.deploy import DeploySettings
from vllm_ci.deploy.target import REVISION_HEADER, Revision, Route, Serving
from vllm_ci.domain.errors import ErroredError, FailedError, UsageError
from vllm_ci.domain.image import ImageRef
from vllm_ci.suites import metrics
from vllm_ci.targets.kubernetes import objects, observing, pods
from vllm_ci.targets.kubernetes.cluster import Cluster, connected, translated
from vllm_ci.targets.kubernetes.target import KubernetesTarget, _taken


def revision(**serving: Any) -> Revision:
    argv = ("vllm", "serve", "--model", "org/model", "--host", "{host}", "--port", "{port}")
    return Revision(
        commit="a" * 40,
        image=ImageRef(repository="registry.example.com/team/app", digest="sha256:" + "a" * 64),
        serving=Serving(**{"argv": argv, "model": "m", "env": {"A": "1"}, "secrets": ("HF_TOKEN", "NEW=OLD"), **serving}),
    )


def settings(**kubernetes: Any) -> DeploySettings:
    return DeploySettings.model_validate({"target": "kubernetes", "kubernetes": {"route": {"gateway": "public"}, **kubernetes}})


def deployment(made: Revision, used: DeploySettings | None = None) -> dict[str, Any]:
    every = objects.objects("chat-production", made, 2, used or settings())
    [found] = [each for each in every if each["kind"] == "Deployment"]
    return found


def container(made: Revision, used: DeploySettings | None = None) -> dict[str, Any]:
    one: dict[str, Any] = deployment(made, used)["spec"]["template"]["spec"]["containers"][0]
    return one


def test_a_revision_comes_back_from_its_deployment_as_it_was() -> None:
    made = revision(gpus=2, memory_bytes=5)
    assert objects.revisions_of([json.loads(json.dumps(deployment(made)))]) == {made.name: made}


def test_the_command_line_is_filled_in_and_replaces_the_entry_point() -> None:
    found = container(revision())
    assert found["command"] == ["vllm", "serve", "--model", "org/model", "--host", "0.0.0.0", "--port", "8000"]
    assert "args" not in found
    keys = {each["name"]: each["valueFrom"]["secretKeyRef"]["key"] for each in found["env"] if "valueFrom" in each}
    assert keys == {"HF_TOKEN": "HF_TOKEN", "NEW": "OLD"}


def test_a_model_of_a_volume_takes_the_place_of_the_folder_of_this_machine() -> None:
    made = revision(argv=("vllm", "serve", "--model", "{model}"), checkpoint="/home/me/model")
    assert container(made, settings(model={"claim": "weights"}))["command"][-1] == "/model"
    with pytest.raises(UsageError, match="folder of this machine"):
        deployment(made)


def test_an_image_that_is_only_on_this_machine_is_refused() -> None:
    local = replace(revision(), image=ImageRef(repository="localhost/chat", digest="sha256:" + "a" * 64))
    with pytest.raises(UsageError, match="no cluster can pull"):
        deployment(local)


def test_objects_of_two_revisions_have_names_of_their_own_and_one_label_in_common() -> None:
    first = objects.objects("chat-production", revision(), 1, settings())
    second = objects.objects("chat-production", revision(model="n"), 1, settings())
    names = [(each["kind"], each["metadata"]["name"]) for each in (*first, *second)]
    assert len(set(names)) == len(names)
    assert {each["metadata"]["labels"][objects.DEPLOYMENT] for each in (*first, *second)} == {"chat-production"}
    assert all(len(name) <= 63 for _, name in names)


ROUTES = st.builds(
    lambda share, headers, mirror: Route(
        weights={"aaaaaaaaaaaa-00000001": share, "aaaaaaaaaaaa-00000002": 100 - share},
        headers=dict.fromkeys(headers, "aaaaaaaaaaaa-00000002"),
        mirror="aaaaaaaaaaaa-00000002" if mirror else "",
        mirror_percent=mirror,
    ),
    st.integers(0, 100),
    st.sets(st.text(alphabet="abcXYZ019._-", min_size=1, max_size=8), max_size=3),
    st.integers(0, 100),
)


@pytest.mark.slow
@given(ROUTES)
def test_a_route_comes_back_from_its_object_as_it_was(route: Route) -> None:
    used = settings().kubernetes.route
    assert used
    made = objects.http_route("chat-production", route, used)
    assert objects.route_of(json.loads(json.dumps(made))) == route
    rules = made["spec"]["rules"]
    assert [(each["name"], each["weight"]) for each in rules[-1]["backendRefs"]] == [
        ("chat-production-00000001", route.weights["aaaaaaaaaaaa-00000001"]),
        ("chat-production-00000002", route.weights["aaaaaaaaaaaa-00000002"]),
    ]
    chosen = {rule["matches"][0]["headers"][0]["value"] for rule in rules[:-1]}
    assert chosen == set(route.headers)
    assert all(rule["matches"][0]["headers"][0]["name"] == REVISION_HEADER for rule in rules[:-1])
    assert bool(rules[-1].get("filters")) == bool(route.mirror_percent)


@pytest.mark.parametrize("annotations", [None, {}, {objects.ROUTE: "{"}, {objects.ROUTE: '{"weights": {"a": 5}}'}])
def test_a_route_that_somebody_else_made_or_changed_is_an_error(annotations: Any) -> None:
    with pytest.raises(ErroredError, match="was not made by it"):
        objects.route_of({"metadata": {"name": "chat-production", "annotations": annotations}})


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", "labels": {objects.REVISION: "r"}}, "status": status}


def waiting(reason: str) -> list[dict[str, Any]]:
    return [{"restartCount": 2, "state": {"waiting": {"reason": reason, "message": "why"}}}]


READY = [{"type": "Ready", "status": "True"}]


@pytest.mark.parametrize(
    ("status", "state", "message"),
    [
        ({}, "starting", ""),
        ({"conditions": READY, "podIP": "10.0.0.1"}, "ready", ""),
        ({"containerStatuses": waiting("ContainerCreating")}, "starting", ""),
        ({"containerStatuses": waiting("CrashLoopBackOff")}, "failed", "CrashLoopBackOff: why"),
        ({"initContainerStatuses": waiting("ImagePullBackOff")}, "failed", "ImagePullBackOff: why"),
        (
            {"containerStatuses": [{"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]},
            "failed",
            "exit code 137 (OOMKilled)",
        ),
        ({"phase": "Failed", "reason": "Evicted"}, "failed", "Evicted"),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]},
            "starting",
            "0/3 nodes",
        ),
    ],
)
def test_the_status_of_a_pod_tells_its_state(status: dict[str, Any], state: str, message: str) -> None:
    found = pods.replica(pod(**status))
    assert (found.state, found.message) == (state, message)


def test_a_pod_that_is_deleted_is_draining_whatever_it_says() -> None:
    ready = pod(conditions=READY)
    ready["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"
    assert pods.replica(ready).state == "draining"


def scrape(good: int, bad: int, slow: int = 0) -> metrics.Samples:
    first = "vllm:time_to_first_token_seconds_bucket"
    return metrics.parse(
        f'http_requests_total{{status="2xx"}} {good}\nhttp_requests_total{{status="5xx"}} {bad}\n'
        f'{first}{{le="0.1"}} {good - slow}\n{first}{{le="1.0"}} {good}\n{first}{{le="+Inf"}} {good}\n'
        "vllm:num_requests_running 2\nvllm:num_requests_waiting 1\n"
    )


def test_two_looks_tell_requests_errors_and_latencies_between_them() -> None:
    found = observing.sample({"a": scrape(100, 0)}, {"a": scrape(200, 10, slow=50), "b": scrape(100, 0)})
    assert (found.requests, found.errors) == (210, 10)
    assert found.ttft_ms["0.5"] < 100 < found.ttft_ms["0.95"] <= 1000
    assert found.values["vllm:num_requests_waiting"] == 2


def test_a_server_that_was_restarted_counts_from_nothing() -> None:
    assert observing.sample({"a": scrape(1000, 5)}, {"a": scrape(20, 1)}).requests == 21


def test_a_window_without_requests_has_no_latencies() -> None:
    found = observing.sample({"a": scrape(100, 0)}, {"a": scrape(100, 0)})
    assert (found.requests, found.ttft_ms) == (0, {})


def test_open_requests_are_those_that_run_or_wait() -> None:
    assert observing.open_requests([scrape(1, 0), scrape(1, 0)]) == 6


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (403, ErroredError, "refuses access"),
        (422, UsageError, "refuses"),
        (409, UsageError, "refuses"),
        (500, ErroredError, "status 500"),
    ],
)
def test_answers_of_the_api_server_are_translated_with_what_it_said(status: int, kind: type[Exception], said: str) -> None:
    error = translated(status, json.dumps({"kind": "Status", "message": "the reason"}), "Deployment x")
    assert isinstance(error, kind)
    assert said in error.message
    assert error.why == "the reason"
    assert translated(status, "<html>", "x").why == ""


@pytest.mark.parametrize(
    ("accepted", "resolved", "generation", "expected"),
    [
        ("True", "True", 2, ("", True)),
        ("Unknown", "True", 2, ("", False)),
        ("True", "Unknown", 2, ("", False)),
        ("True", "True", 1, ("", False)),
        ("True", "False", 2, ("ResolvedRefs: why", False)),
    ],
)
def test_a_route_is_in_effect_only_when_the_gateway_says_yes_to_it_as_it_is_now(
    accepted: str, resolved: str, generation: int, expected: tuple[str, bool]
) -> None:
    answers = [
        {"type": name, "status": status, "observedGeneration": generation, "message": "why"}
        for name, status in (("Accepted", accepted), ("ResolvedRefs", resolved))
    ]
    assert _taken({"metadata": {"generation": 2}, "status": {"parents": [{"conditions": answers}]}}) == expected


@pytest.mark.parametrize("deployment", ["7b-production", f"{'a' * 50}-0123abcd"])
def test_a_name_that_kubernetes_would_not_take_is_refused_before_anything_is_asked(deployment: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no name for Kubernetes") as caught:
        KubernetesTarget(Cluster(None, "default", tmp_path / "cache"), deployment, settings())
    assert "set a shorter `name`" in caught.value.remedy


def test_the_longest_name_leaves_room_for_the_hash_of_a_revision() -> None:
    made = objects.objects("a" * 50, revision(), 1, settings())
    assert max(len(each["metadata"]["name"]) for each in made if each["kind"] == "Service") <= 63


class _Pods(Cluster):
    """A cluster that takes everything, and has these pods."""

    def __init__(self, folder: Path, *pods: dict[str, Any]) -> None:
        super().__init__(None, "default", folder / "cache")
        self.pods = list(pods)

    async def apply(self, manifest: Any, *, dry_run: bool = False) -> dict[str, Any]:  # noqa: ARG002
        return dict(manifest)

    async def listed(self, version: str, kind: str, selector: str) -> list[dict[str, Any]]:  # noqa: ARG002
        return self.pods if kind == "Pod" else []

    async def log(self, pod: str, *, lines: int, previous: bool = False) -> str:  # noqa: ARG002
        return ""

    async def change(self, *_: Any, **__: Any) -> None:
        await anyio.sleep(0.01)


def _pod(name: str, made: Revision, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {objects.REVISION: made.name}}, "status": status}


EVICTED = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
RUNNING: dict[str, Any] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


def test_a_deployment_with_our_label_that_somebody_else_made_is_said(tmp_path: Path) -> None:
    class Foreign(_Pods):
        async def listed(self, version: str, kind: str, selector: str) -> list[dict[str, Any]]:  # noqa: ARG002
            return (
                [{"metadata": {"name": "x", "labels": {objects.DEPLOYMENT: "chat"}}, "spec": {}}]
                if kind == "Deployment"
                else []
            )

    with pytest.raises(ErroredError, match="Deployment x has the labels of this deployment and was not made by it"):
        anyio.run(KubernetesTarget(Foreign(tmp_path), "chat", settings()).current)


def test_a_pod_that_was_evicted_and_replaced_does_not_keep_a_release_from_starting(tmp_path: Path) -> None:
    made = revision(ready_timeout_s=0.2)
    target = KubernetesTarget(_Pods(tmp_path, _pod("old", made, **EVICTED), _pod("new", made, **RUNNING)), "chat", settings())
    anyio.run(target.start, made, 1)
    alone = KubernetesTarget(_Pods(tmp_path, _pod("old", made, **EVICTED)), "chat", settings())
    with pytest.raises(FailedError, match=r"has not 1 ready servers after 0\.2 s; one ended: The node was low on resource"):
        anyio.run(alone.start, made, 1)


async def _named(folder: Path, port: int) -> Cluster:
    """The cluster that a configuration of kubectl names."""
    file = folder / "kubeconfig"
    named = {"cluster": {"server": f"http://127.0.0.1:{port}"}, "user": {}, "context": {"cluster": "c", "user": "c"}}
    listed = {f"{kind}s": [{"name": "c", kind: each}] for kind, each in named.items()}
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "c", **listed}), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
        return await connected("c", "", cache=folder / "cache.json")


@pytest.mark.parametrize("asked", ["metrics", "log", "found"])
def test_an_api_server_that_never_answers_is_not_waited_for_forever(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_ci.targets.kubernetes.cluster._TIMEOUT_S", 0.2)

    async def ask(port: int) -> None:
        cluster = await _named(tmp_path, port)
        with anyio.fail_after(20):
            if asked == "metrics":
                await cluster.metrics("pod", 8000)
            elif asked == "log":
                await cluster.log("pod", lines=1)
            else:
                await cluster.found("v1", "Service", "name")

    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ErroredError, match="the cluster cannot be reached"):
        anyio.run(ask, silent.getsockname()[1])


@pytest.mark.parametrize(
    ("kubernetes", "said"),
    [
        ({"route": None}, "needs a Gateway"),
        ({"rollouts": {}}, "Argo Rollouts changes this channel"),
        ({"kserve": {}}, "KServe changes this channel"),
        ({"autoscaling": {}}, "number of servers itself"),
        ({"route": {"gateway": "g", "weights": {"production": 100}}}, "weights itself"),
    ],
)
def test_settings_that_leave_the_work_to_others_are_refused(kubernetes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        KubernetesTarget(Cluster(None, "default", tmp_path / "cache"), "chat-production", settings(**kubernetes))
    assert said in str(caught.value)
