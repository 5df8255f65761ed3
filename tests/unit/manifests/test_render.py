"""``vllm-ci render kubernetes``: from a ledger to manifests, and to a base that the ledger's overlay pins."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from registries.evidence import NOW, commit_of
from registries.releases import World, world_in
from vllm_ci.cli import root
from vllm_ci.domain.errors import UsageError, VllmCiError
from vllm_ci.release import history
from vllm_ci.release.publish import publish
from vllm_ci.system import yaml_text

pytestmark = pytest.mark.slow


@pytest.fixture(name="world")
def _world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A project with a release in `staging` and none in `production`."""
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    world = world_in(tmp_path / ".vllm-ci")
    publish(world.setup, world.candidate(1), "staging", now=NOW).require()
    configured(tmp_path)
    monkeypatch.chdir(tmp_path)
    return world


def configured(folder: Path, kubernetes: dict[str, Any] | None = None, **sections: Any) -> None:
    content = {"name": "project", "deploy": {"kubernetes": kubernetes or {}}, **sections}
    (folder / "vllm-ci.yaml").write_text(yaml.safe_dump(content))


def called(*arguments: str) -> str:
    result = CliRunner().invoke(root, ("render", "kubernetes", *arguments), standalone_mode=False)
    if isinstance(result.exception, VllmCiError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def digest(world: World) -> str:
    head = history.current(world.setup.ledger.read().records, "staging")
    assert head
    return head.release.digest


def test_the_release_of_a_channel_is_rendered_by_digest(world: World) -> None:
    objects = {each["kind"]: each for each in yaml.safe_load_all(called("staging"))}
    container = objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == f"localhost/project@{digest(world)}"
    assert objects["Deployment"]["metadata"]["labels"]["app.kubernetes.io/version"] == commit_of(1).sha
    assert set(objects) == {"ConfigMap", "Service", "Deployment", "PodDisruptionBudget", "NetworkPolicy"}


@pytest.mark.usefixtures("world")
def test_a_channel_without_a_release_has_nothing_to_render_but_a_base(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing was released to production"):
        called("production")
    called("production", "--output", str(tmp_path / "base"))
    assert (tmp_path / "base/deployment.yaml").exists()


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"gateway": {"api_keys": True}}, "deploy.gateway.api_keys"),
        ({"gateway": {"api_keys": True, "requests_per_minute": 60}}, "deploy.gateway.requests_per_minute"),
        ({"gateway": {"api_keys": True, "log_requests": True}}, "deploy.gateway.log_requests"),
        ({"scale": {"min": 0}}, "deploy.scale"),
    ],
)
def test_settings_of_a_local_deployment_that_a_cluster_would_not_keep_are_refused_by_name(
    tmp_path: Path, setting: dict[str, Any], name: str
) -> None:
    configured(tmp_path, deploy={"target": "local", **setting})
    with pytest.raises(UsageError) as refused:
        called("staging")
    assert name in refused.value.message
    assert "cannot be used with target kubernetes" in refused.value.message
    assert refused.value.remedy


@pytest.mark.needs_tool
def test_the_ledgers_overlay_pins_the_base(world: World, tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH")
    called("staging", "--output", str(tmp_path / "deploy/base"))
    overlay = tmp_path / "deploy/staging/kustomization.yaml"
    overlay.parent.mkdir()
    text = world.setup.ledger.read([overlay_of(world)]).overlays[overlay_of(world)].text
    assert text
    overlay.write_text(text + "resources: [../base]\n")
    done = subprocess.run(["kubectl", "kustomize", str(overlay.parent)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    objects = list(yaml.safe_load_all(done.stdout))
    [deployment] = [each for each in objects if each["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    images = {each["image"] for each in (*spec["containers"], *spec["initContainers"])}
    [image] = images
    assert image.startswith("localhost/project")
    assert image.endswith(f"@{digest(world)}")


def overlay_of(world: World) -> str:
    return world.setup.channels["staging"].overlay


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    ("kubernetes", "said"),
    [
        ({"namespace": "Chat"}, "DNS label"),
        ({"namespace": "a: b\nkind: Secret"}, "DNS label"),
        ({"node_selector": {"pool": "a b"}}, "label"),
        ({"memory": "lots"}, "amount"),
        ({"writable": ["home"]}, "absolute path"),
        ({"writable": ["/home/../etc"]}, "absolute path"),
        ({"writable": ["/home/vllm", "/tmp"]}, "/tmp is mounted already"),
        ({"writable": ["/home/vllm", "/dev/shm"]}, "/dev/shm is mounted already"),
        ({"writable": ["/a", "/a"]}, "/a is mounted already"),
        ({"writable": ["/a", "/a/huggingface"]}, "/a/huggingface is mounted already"),
        ({"model": {"image": "registry/model:latest"}}, "by digest"),
        ({"model": {"claim": "a", "cache_claim": "b"}}, "only one"),
        ({"route": {"gateway": "g", "weights": {"staging": 50}}}, "sum to 50"),
        ({"route": {"gateway": "g", "weights": {"nowhere": 100}}}, "no channel nowhere"),
        ({"route": {"gateway": "g", "hostnames": ["a b"]}}, "DNS name"),
        ({"autoscaling": {"by": "hpa", "min": 0}}, "cannot scale to 0"),
        ({"autoscaling": {"by": "keda"}}, "needs `prometheus`"),
        ({"autoscaling": {"min": 5, "max": 2}}, "above"),
        ({"rollouts": {"suites_image": "vllm-ci:1"}}, "by digest"),
        ({"rollouts": {}, "route": {"gateway": "g", "mirror": "production"}}, "cannot be used with rollouts"),
    ],
)
def test_settings_that_no_cluster_takes_are_refused(kubernetes: dict[str, Any], said: str, tmp_path: Path) -> None:
    configured(tmp_path, kubernetes)
    with pytest.raises(UsageError) as caught:
        called("staging")
    assert said in str(caught.value)


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": {"path": "checkpoint"}}, "folder of this machine"),
        ({"server": {"gpus": "all"}}, "needs a number"),
        ({"name": "7b"}, "must begin with a letter"),
        ({"deploy": {"rolling": {"max_surge": 0}}}, "no pod could ever be replaced"),
        ({"server": {"env": {"A B": "1"}}}, "no name of a variable"),
        ({"name": "x" * 60}, "shorter `name`"),
    ],
)
def test_projects_that_no_cluster_can_run_are_refused(sections: dict[str, Any], said: str, tmp_path: Path) -> None:
    configured(tmp_path, **sections)
    with pytest.raises(UsageError) as caught:
        called("production", "--output", str(tmp_path / "base"))
    assert said in str(caught.value)


@pytest.mark.usefixtures("world")
def test_a_step_of_a_canary_without_a_time_does_not_wait_for_a_person_in_a_rollout(tmp_path: Path) -> None:
    steps = [{"weight": 5, "hold_s": 0}, {"weight": 20, "hold_s": 0.5}, {"weight": 50, "person": True}, {"weight": 100}]
    configured(tmp_path, deploy={"kubernetes": {"rollouts": {}}, "canary": {"steps": steps}})
    [rollout] = [each for each in yaml.safe_load_all(called("staging")) if each["kind"] == "Rollout"]
    assert rollout["spec"]["strategy"]["canary"]["steps"] == [
        {"setWeight": 5},
        {"setWeight": 20},
        {"pause": {"duration": "1s"}},
        {"setWeight": 50},
        {"pause": {}},
    ]


@pytest.mark.usefixtures("world")
def test_names_of_projects_become_names_of_objects(tmp_path: Path) -> None:
    configured(tmp_path, name="team_a.chat")
    called("production", "--output", str(tmp_path / "base"))
    assert yaml.safe_load((tmp_path / "base/service.yaml").read_text())["metadata"]["name"].startswith(
        "team-a-chat-production-"
    )


@pytest.mark.usefixtures("world")
def test_secrets_are_read_from_the_secret_under_their_own_names(tmp_path: Path) -> None:
    configured(tmp_path, server={"secrets": ["HF_TOKEN", "NEW=OLD"], "api_key_env": "MY_KEY"})
    called("production", "--output", str(tmp_path / "base"))
    deployment = yaml.safe_load((tmp_path / "base/deployment.yaml").read_text())
    env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    keys = {each["name"]: each["valueFrom"]["secretKeyRef"]["key"] for each in env if "valueFrom" in each}
    assert keys == {"HF_TOKEN": "HF_TOKEN", "NEW": "OLD", "VLLM_API_KEY": "VLLM_API_KEY"}


WORDS = (
    *("1e3", "0o17", "017", "0x1F", "0b1", "1_000", "12:30", "1.0", "-1", "+1", ".5", "1e400", "123e45"),
    *("y", "N", "yes", "off", "true", "null", "~", ".nan", "-.inf", "", " ", "=", "<<", "- a", "a: b", "a #b", "#", "&a", "*a"),
    *(
        "!x",
        "%a",
        "@a",
        "`a",
        "{a}",
        "[a]",
        "'",
        '"',
        "\\n",
        "a\nb",
        "a\n\n",
        "\n",
        " a\n b",
        "a\tb\n",
        "a ",
        "--- a",
        "...",
        "--x=1",
    ),
    *("2026-11-27", "\u2028", "\x85", "ä", "🚀", "\x07", "a\r\nb", "|", ">", "? a", "a:", ":a", "$(A)", "{{ .Values.x }}"),
)


@pytest.mark.needs_tool
def test_another_reader_of_yaml_reads_the_same_text(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH")
    # kubectl writes U+0085 as it is, which other readers take for the end of a line.
    data = {f"k{index}": word for index, word in enumerate(WORDS) if word != "\x85"}
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "words"}, "data": data}
    (tmp_path / "words.yaml").write_text(yaml_text.dump(wanted), encoding="utf-8", newline="")
    (tmp_path / "kustomization.yaml").write_text("resources: [words.yaml]\n")
    done = subprocess.run(["kubectl", "kustomize", str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    read = yaml.load(done.stdout, Loader=yaml.BaseLoader)["data"]
    assert {word for key, word in data.items() if read.get(key) != word} == set()


@pytest.mark.parametrize("word", WORDS)
def test_what_is_written_is_read_back_as_text(word: str) -> None:
    assert yaml.safe_load(yaml_text.dump({"a": word, word: "b"})) == {"a": word, word: "b"} or word == "a"
