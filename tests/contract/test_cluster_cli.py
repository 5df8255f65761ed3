"""``vllm-ci deploy`` into a cluster: a real API server and a real registry; nodes and the Gateway are played."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from registries.docker import DockerRegistry
from registries.evidence import NOW, commit_of
from registries.fixtures import _registry
from registries.releases import World, world_in
from standin import cluster
from vllm_ci.cli import root
from vllm_ci.domain.errors import VllmCiError
from vllm_ci.registry.access import Access
from vllm_ci.release.publish import publish

__all__ = ["_registry"]
pytestmark = [pytest.mark.needs_tool, pytest.mark.needs_registry]


@pytest.fixture(name="world")
def _world(registry: DockerRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A project of its own in a cluster, with one release in `staging`."""
    server = cluster.shared()
    if not cluster.definitions():
        pytest.skip("no definitions of the Gateway API: set VLLM_CI_TEST_CRDS to a folder with them (docs/kubernetes.md)")
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    repository = f"{registry.host}/team/name"
    world = world_in(tmp_path / ".vllm-ci", repository=repository, access=Access.from_environment())
    publish(world.setup, world.candidate(1), "staging", now=NOW).require()
    kubernetes = {"route": {"gateway": "public", "hostnames": ["llm.example.com"]}}
    settings = {"target": "kubernetes", "replicas": 2, "keep_s": 1, "kubernetes": kubernetes}
    content = {
        "name": f"p{secrets.token_hex(3)}",
        "model": {"name": "org/model", "served_name": "m"},
        "release": {"repository": repository},
        "deploy": settings,
    }
    (tmp_path / "vllm-ci.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    return world


def called(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(root, (*arguments, "--json"), standalone_mode=False)
    if isinstance(result.exception, VllmCiError):
        raise result.exception
    assert result.exit_code == 0, result.output + str(result.exception)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def serving(channel: str) -> list[str]:
    """Commits of the revisions that get requests, shortened."""
    found = called("deploy", "status", channel)
    return [name.partition("-")[0] for name, share in found["weights"].items() if share]


def test_releases_are_deployed_rolled_back_and_stopped_from_the_command_line(world: World) -> None:
    called("deploy", "staging")
    assert serving("staging") == [commit_of(1).sha[:12]]
    publish(world.setup, world.candidate(2), "staging").require()
    called("deploy", "staging", "--strategy", "blue-green")
    assert serving("staging") == [commit_of(2).sha[:12]]
    called("rollback", "staging", "--reason", "test")
    assert serving("staging") == [commit_of(1).sha[:12]]
    called("deploy", "scale", "staging", "3")
    assert len([each for each in called("deploy", "status", "staging")["replicas"] if each["state"] == "ready"]) >= 3
    called("deploy", "stop", "staging", "--yes")
    server = cluster.shared()
    name = yaml.safe_load(Path("vllm-ci.yaml").read_text(encoding="utf-8"))["name"]
    selector = f"labelSelector=vllm-ci/deployment={name}-staging"
    for path in ("api/v1/namespaces/default/pods", "api/v1/namespaces/default/services"):
        assert not server.call("GET", f"/{path}?{selector}")["items"]
