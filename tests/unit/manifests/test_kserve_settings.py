"""``deploy.kubernetes.kserve``: what is rendered of a channel's settings, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from registries.evidence import NOW
from registries.releases import World, world_in
from unit.manifests.test_render import called, configured, digest
from vllm_ci.config.load import load
from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.release.publish import publish

pytestmark = pytest.mark.slow

MODULE = ("/opt/vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server")
HUB = {"name": "org/model", "served_name": "m"}
ROUTE = {"gateway": "public", "hostnames": ["llm.example.com"]}


@pytest.fixture(name="world")
def _world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A project with a release in `staging` whose image has an entry point."""
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    world = world_in(tmp_path / ".vllm-ci")
    publish(world.setup, world.candidate(1, entry_point=MODULE), "staging", now=NOW).require()
    monkeypatch.chdir(tmp_path)
    return world


def written(folder: Path, kubernetes: dict[str, Any] | None = None, **sections: Any) -> None:
    """The project, with KServe and a model that it can load; `deploy` has further settings of the deployment."""
    deploy = {**sections.pop("deploy", {}), "kubernetes": {"kserve": {}, **(kubernetes or {})}}
    configured(folder, **{"model": HUB, "deploy": deploy, **sections})


def service(text: str) -> dict[str, Any]:
    [found] = [each for each in yaml.safe_load_all(text) if each["kind"] == "LLMInferenceService"]
    made: dict[str, Any] = found
    return made


def test_the_release_of_a_channel_is_rendered_by_digest_with_its_images_own_entry_point(world: World, tmp_path: Path) -> None:
    server = {"args": ["--max-model-len=2048"], "secrets": ["HF_TOKEN"], "gpus": "0,1", "shm_mib": 512}
    written(tmp_path, {"route": ROUTE, "namespace": "chat"}, deploy={"replicas": 2, "drain_s": 30}, server=server)
    text = called("staging")
    assert text == called("staging")
    spec = service(text)["spec"]
    [container] = spec["template"]["containers"]
    assert container["image"] == f"localhost/project@{digest(world)}"
    assert container["command"] == list(MODULE)
    assert container["args"][:4] == ["--model", "org/model", "--served-model-name", "m"]
    assert "--max-model-len=2048" in container["args"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert [each["valueFrom"]["secretKeyRef"]["key"] for each in container["env"] if "valueFrom" in each] == ["HF_TOKEN"]
    assert spec["template"]["volumes"][0] == {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "512Mi"}}
    assert (spec["replicas"], spec["template"]["terminationGracePeriodSeconds"]) == (2, 75)
    assert spec["router"]["gateway"] == {"refs": [{"name": "public"}]}


@pytest.mark.usefixtures("world")
def test_a_base_needs_the_entry_point_because_it_has_no_image_yet(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(ConfigError, match="needs the program that serves") as caught:
        called("production", "--output", str(tmp_path / "base"))
    assert "deploy.kubernetes.kserve.entry_point" in str(caught.value)
    assert not (tmp_path / "base").exists()
    written(tmp_path, {"kserve": {"entry_point": ["vllm", "serve"]}})
    called("production", "--output", str(tmp_path / "base"))
    made = service((tmp_path / "base/llminferenceservice.yaml").read_text())
    [container] = made["spec"]["template"]["containers"]
    assert container["command"] == ["vllm", "serve"]
    assert container["image"].endswith("@sha256:" + "0" * 64)
    assert "vllm-ci/commit" not in made["spec"]["annotations"]


@pytest.mark.usefixtures("world")
def test_the_entry_point_of_the_configuration_goes_before_that_of_the_image(tmp_path: Path) -> None:
    written(tmp_path, {"kserve": {"entry_point": ["vllm", "serve"]}})
    assert service(called("staging"))["spec"]["template"]["containers"][0]["command"] == ["vllm", "serve"]


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    ("deploy", "key", "why"),
    [
        ({"strategy": "canary"}, "deploy.strategy", "there is no canary"),
        ({"strategy": "shadow"}, "deploy.strategy", "there is no shadow"),
        ({"strategy": "blue-green"}, "deploy.strategy", "there is no blue-green"),
        ({"rolling": {"max_surge": 2}}, "deploy.rolling.max_surge", "a quarter of the pods"),
        ({"rolling": {"max_unavailable": 1}}, "deploy.rolling.max_unavailable", "a quarter of the pods"),
        ({"scale": {"min": 0, "max": 2}}, "deploy.scale", "at target local only"),
        ({"gateway": {"api_keys": True}}, "deploy.gateway.api_keys", "only the gateway of target local"),
        ({"gateway": {"requests_per_minute": 9}}, "deploy.gateway.requests_per_minute", "only the gateway"),
        ({"gateway": {"api_keys": True, "tokens_per_minute": 9}}, "deploy.gateway.tokens_per_minute", "only the gateway"),
        ({"gateway": {"api_keys": True, "log_requests": True}}, "deploy.gateway.log_requests", "only the gateway"),
    ],
)
def test_what_the_channel_does_elsewhere_and_kserve_cannot_is_refused_by_name(
    deploy: dict[str, Any], key: str, why: str, tmp_path: Path
) -> None:
    written(tmp_path, deploy=deploy)  # it may well go on at target local
    with pytest.raises(UsageError) as caught:
        called("staging")
    assert key in caught.value.message
    assert "cannot be used with deploy.kubernetes.kserve" in caught.value.message
    assert why in caught.value.why
    assert caught.value.remedy
    written(tmp_path, deploy={"target": "kubernetes", **deploy})
    with pytest.raises(ConfigError) as read:
        load(tmp_path / "vllm-ci.yaml")
    first = "deploy.gateway.api_keys" if deploy.get("gateway", {}).get("api_keys") else key
    assert f"{first} is not valid" in read.value.message


@pytest.mark.parametrize(
    ("kubernetes", "key", "why"),
    [
        ({"rollouts": {}}, "deploy.kubernetes.rollouts", "both replace the Deployment"),
        ({"autoscaling": {}}, "deploy.kubernetes.autoscaling", "Workload Variant Autoscaler"),
        (
            {"autoscaling": {"by": "keda", "min": 0, "prometheus": "http://prometheus:9090"}},
            "deploy.kubernetes.autoscaling",
            "not to zero",
        ),
        (
            {"route": {**ROUTE, "weights": {"production": 95, "staging": 5}}},
            "deploy.kubernetes.route.weights",
            "shares of two releases are not rendered",
        ),
        ({"route": {**ROUTE, "mirror": "staging"}}, "deploy.kubernetes.route.mirror", "copies no requests"),
        ({"kserve": {"scheduler": True}}, "deploy.kubernetes.kserve.scheduler", "belongs to a route"),
    ],
)
def test_what_does_not_go_together_in_a_cluster_is_refused_when_it_is_read(
    kubernetes: dict[str, Any], key: str, why: str, tmp_path: Path
) -> None:
    written(tmp_path, kubernetes)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "vllm-ci.yaml")
    assert f"{key} is not valid" in caught.value.message
    assert "`kubernetes.kserve`" in caught.value.why
    assert why in caught.value.why
    assert caught.value.remedy


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": {"tiny": {}}}, "cannot serve a generated model"),
        ({"model": {"path": "checkpoint"}}, "folder of this machine"),
        ({"model": {**HUB, "served_name": "a b"}}, "under the name 'a b'"),
        ({"model": {**HUB, "served_name": "{{ .Spec }}"}}, "set model.served_name"),
        ({"model": {**HUB, "served_name": "a/../b"}}, "under the name 'a/../b'"),
        ({"name": "x" * 34}, "43 characters are the limit"),
        ({"server": {"gpus": "all"}}, "needs a number"),
    ],
)
def test_projects_that_kserve_cannot_run_are_refused(sections: dict[str, Any], said: str, tmp_path: Path) -> None:
    written(tmp_path, {"kserve": {"entry_point": ["vllm", "serve"]}}, **sections)
    with pytest.raises(UsageError) as caught:
        called("production", "--output", str(tmp_path / "base"))
    assert said in str(caught.value)
    assert not (tmp_path / "base").exists()


@pytest.mark.usefixtures("world")
def test_a_name_of_the_longest_length_is_taken(tmp_path: Path) -> None:
    written(tmp_path, {"kserve": {"entry_point": ["vllm", "serve"]}, "route": ROUTE}, name="x" * 32)
    called("production", "--output", str(tmp_path / "base"))
    made = service((tmp_path / "base/llminferenceservice.yaml").read_text())
    assert len(made["metadata"]["name"]) == 43
    [rule] = made["spec"]["router"]["route"]["http"]["spec"]["rules"]
    assert len(rule["backendRefs"][0]["name"]) == 63


@pytest.mark.usefixtures("world")
def test_a_model_of_an_image_must_have_a_digest(tmp_path: Path) -> None:
    written(tmp_path, {"model": {"image": "registry.example.com/model:latest"}})
    with pytest.raises(UsageError, match="by digest"):
        called("staging")


@pytest.mark.usefixtures("world")
def test_one_channel_can_be_of_kserve_beside_others(tmp_path: Path) -> None:
    channels = {"staging": {"kubernetes": {"kserve": {}}}, "production": {"strategy": "canary"}}
    configured(tmp_path, model=HUB, deploy={"target": "kubernetes", "channels": channels, "kubernetes": {"route": ROUTE}})
    assert service(called("staging"))
    called("production", "--output", str(tmp_path / "base"))
    assert (tmp_path / "base/deployment.yaml").exists()
