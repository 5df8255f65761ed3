from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from imagery.world import PLATFORMS, PYTHON, World
from vllm_ci.cli import root
from vllm_ci.domain.errors import FailedError, UsageError
from vllm_ci.images import layer
from vllm_ci.images.spec_file import host_platform
from vllm_ci.system.vcs import discover

pytestmark = pytest.mark.slow

SPEC = f"""
variant: test
repository: small
base: {{suite: bookworm, packages: [small]}}
python: "{PYTHON}"
glibc: "2.36"
prefix: /opt/vllm
platforms: [{", ".join(PLATFORMS)}]
requirements: []
tiers:
  - {{name: dependencies, wheels: ["*", "!vllm*"]}}
  - {{name: vllm-compiled, wheels: ["vllm*"], files: compiled}}
  - {{name: vllm-python, wheels: ["vllm*"], files: python}}
"""


@pytest.fixture
def project(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world's repository as a project of its own, and the current folder."""
    world.spec()
    (world.root / "images" / "small.yaml").write_text(SPEC)
    overlays = "overlays: [{from: serving, to: /opt/serving}]"
    world.commit({"vllm-ci.yaml": f"version: 1\nimage: {{spec: ../images/small.yaml, {overlays}}}\n".encode()})
    monkeypatch.chdir(world.repository)
    for name in ("VLLM_CI_CONFIG", "VLLM_CI_IMAGE", "VLLM_CI_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    return world


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(root, arguments, auto_envvar_prefix="VLLM_CI")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_build_prints_one_object_with_what_other_programs_rely_on(project: World, tmp_path: Path) -> None:
    facts = tmp_path / "facts"
    found = json.loads(call("build", "--json", "--facts", str(facts)).stdout)
    commit = discover(project.repository)
    assert found["commit"] == {"sha": commit.sha, "dirty": False}
    assert found["image"]["reference"] == f"small@{found['image']['digest']}"
    assert found["image"]["tags"] == [f"{commit.sha}-test"]
    assert found["pushed_bytes"] == 0
    assert {"tier", "digest", "size_bytes", "built"} <= set(found["layers"][0])
    assert json.loads((facts / "build.json").read_text()) == found
    assert "vllm-small" in json.loads((facts / "manifest.json").read_text())
    assert json.loads((facts / "config.json").read_text())["os"] == "linux"


def test_check_builds_again_from_nothing_and_says_when_the_bytes_differ(
    project: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert project.repository.exists()
    call("build", "--check")
    call("cache", "prune", "--older-than", "0", "--dry-run")
    monkeypatch.setattr(layer, "MTIME", layer.MTIME + 1)
    facts = layer.facts
    monkeypatch.setattr(layer, "facts", lambda compression: {**facts(compression), "mtime": layer.MTIME - 1})
    with pytest.raises(FailedError, match="the second build gave another image") as caught:
        call("build", "--check")
    assert "dependencies" in caught.value.why


def test_an_archive_holds_a_whole_layout(project: World, tmp_path: Path) -> None:
    target = tmp_path / "out" / "image.tar"
    assert project.repository.exists()
    found = json.loads(call("build", "--json", "--output", f"oci-archive:{target}").stdout)
    with tarfile.open(target) as archive:
        names = archive.getnames()
        index = archive.extractfile("index.json")
        assert index is not None
        assert json.loads(index.read())["manifests"][0]["digest"] == found["image"]["digest"]
    assert {"oci-layout", "index.json", f"blobs/sha256/{found['image']['digest'].removeprefix('sha256:')}"} <= set(names)


def test_an_unknown_kind_of_output_is_refused(project: World) -> None:
    assert project.repository.exists()
    with pytest.raises(UsageError, match="oci-archive"):
        call("build", "--output", "docker:x")


def test_pushing_sends_a_commit_once(project: World, tmp_path: Path) -> None:
    target = f"oci:{tmp_path / 'registry'}"
    first = json.loads(call("build", "--json", "--push", target).stdout)
    assert first["pushed_bytes"] > 1000
    assert json.loads(call("build", "--json", "--push", target).stdout)["pushed_bytes"] == 0
    project.commit({"serving/template.jinja": b"new"})
    changed = json.loads(call("build", "--json", "--push", target).stdout)
    assert 0 < changed["pushed_bytes"] < 10_000


def test_images_are_shown_compared_and_explained(project: World) -> None:
    before = discover(project.repository).sha
    call("build")
    after = project.commit({"serving/template.jinja": b"new"}).sha
    call("build")
    shown = json.loads(call("image", "show", before[:10], "--json").stdout)
    assert shown["config"]["Labels"]["org.opencontainers.image.revision"] == before
    assert "org.opencontainers.image.revision" in call("image", "show", before[:10]).stdout
    assert [item["tier"] for item in json.loads(call("image", "diff", before, after, "--json").stdout)["pulled"]] == [
        "commit",
        "metadata",
    ]
    assert "have to be pulled" in call("image", "diff", before, after).stdout
    assert "opt/serving/template.jinja" in call("image", "explain", after).stdout
    with pytest.raises(UsageError, match="nope matches 0 images"):
        call("image", "show", "nope")


def test_the_cache_is_shown_and_pruned(project: World) -> None:
    assert project.repository.exists()
    call("build")
    kinds = {kind["name"]: kind for kind in json.loads(call("cache", "show", "--json").stdout)["kinds"]}
    assert kinds["wheels"]["count"] == 2
    assert "GB are free" in call("cache", "show").stdout
    pruned = json.loads(call("cache", "prune", "--older-than", "0", "--json").stdout)
    assert pruned["images"]
    assert pruned["deleted"]
    with pytest.raises(UsageError, match="invalid size"):
        call("cache", "prune", "--max-size", "much")


def test_a_platform_list_gives_an_index(project: World) -> None:
    found = json.loads(call("build", "--json", "--platform", ",".join(PLATFORMS)).stdout)
    assert set(found["image"]["manifests"]) == set(PLATFORMS)
    assert host_platform() in PLATFORMS
    assert project.store.index()


def test_pull_builds_a_commit_with_its_own_configuration(project: World) -> None:
    config = (project.repository / "vllm-ci.yaml").read_text().replace("..", str(project.root))
    project.commit({"serving/template.jinja": b"before\n", "vllm-ci.yaml": config.encode()})
    before = json.loads(call("build", "--json").stdout)
    changed = config.replace("image: {", "image: {env: {ADDED: 'yes'}, ").encode()
    project.commit({"serving/template.jinja": b"after\n", "vllm-ci.yaml": changed})
    (project.repository / "serving/template.jinja").write_text("not committed\n")
    found = json.loads(call("image", "pull", "HEAD~1", "--json").stdout)
    assert found["digest"] == before["image"]["digest"]
    assert found["source"].startswith("commit ")
    assert not (project.repository / ".git/worktrees").exists()
