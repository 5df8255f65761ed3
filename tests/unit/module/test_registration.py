"""What Dagger is told about the module, seen without an engine."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import dagger
import pytest
from dagger.mod import default_module
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vllm_ci.engines import dagger_tool
from vllm_ci.module.main import VllmCi
from vllm_ci.module.run import Run

ROOT = Path(__file__).parents[3]
CONFIG: dict[str, Any] = json.loads((ROOT / "dagger.json").read_text())
OBJECTS: dict[str, Any] = default_module()._objects
FUNCTIONS = [(name, function) for name, each in OBJECTS.items() for function in each.functions if function]
VERBS = ("build", "image", "push", "run", "serve", "test")
RELEASE_VERBS = ("publish", "promote", "rollback", "history", "verify")


def parameters(name: str) -> dict[str, Any]:
    return dict(OBJECTS["VllmCi"].functions[name].parameters)


def test_the_main_object_is_named_after_the_module() -> None:
    pascal = "".join(part.capitalize() for part in CONFIG["name"].split("-"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["dagger.mod"]["main_object"] == f"{VllmCi.__module__}:{pascal}"
    assert set(OBJECTS) == {pascal, Run.__name__}


def test_the_verbs_are_those_of_the_command_line_and_those_of_a_run() -> None:
    found = {name: {function for each, function in FUNCTIONS if each == name} for name in OBJECTS}
    assert found == {"VllmCi": {*VERBS, *RELEASE_VERBS}, "Run": {"assert_passed"}}
    assert set(OBJECTS["Run"].fields) == {"verdict", "exit_code", "digest", "summary", "report"}


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_every_function_says_for_how_long_its_result_is_good(name: str, function: str) -> None:
    """Nobody is served a verdict of last week: all read a clock, a package index, a server or a registry."""
    policy = OBJECTS[name].functions[function].cache_policy
    # Once a session, so that report and verdict can come from one run.
    assert policy == ("session" if function == "run" else "never")


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_every_function_and_every_argument_is_explained(name: str, function: str) -> None:
    found = OBJECTS[name].functions[function]
    assert found.doc.endswith((".", "`."))
    unexplained = [each.name for each in found.parameters.values() if not each.doc]
    assert not unexplained


def test_every_setting_of_the_module_is_explained_and_optional() -> None:
    constructor = OBJECTS["VllmCi"].get_constructor(default_module()._converter)
    found = constructor.parameters
    assert set(found) == {
        *("config", "python_image", "index", "extra_index", "debian_mirror", "proxy", "certificates", "cache"),
    }
    assert all(each.doc and each.is_optional for each in found.values())


@pytest.mark.parametrize("function", [*VERBS, "publish", "promote", "rollback", "history"])
def test_the_source_is_the_repository_unless_it_is_named(function: str) -> None:
    source = parameters(function)["source"]
    assert source.default_path == "/"
    assert not any(each.startswith(".git") for each in source.ignore), "the commit could not be told"


def test_only_what_nobody_could_guess_has_to_be_named() -> None:
    needed = [
        (name, each.name) for name in (*VERBS, *RELEASE_VERBS) for each in parameters(name).values() if not each.is_optional
    ]
    assert needed == [
        ("push", "registry"),
        ("promote", "from"),
        ("promote", "channel"),
        ("rollback", "channel"),
        ("verify", "image"),
    ]


@pytest.mark.parametrize("function", [*VERBS, *RELEASE_VERBS])
def test_what_is_secret_comes_as_a_secret(function: str) -> None:
    for name, each in parameters(function).items():
        if name.endswith(("username", "password", "passphrase")) or name == "key":
            assert each.resolved_type == dagger.Secret | None
        if name == "secrets":
            assert each.resolved_type == list[dagger.Secret] | None


@pytest.mark.parametrize("function", ["publish", "promote", "rollback"])
def test_whoever_moves_a_channel_can_reach_registry_and_ledger_and_sign(function: str) -> None:
    assert {
        *("username", "password", "ledger_username", "ledger_password", "ssh_agent", "known_hosts"),
        *("key", "passphrase", "secrets", "by", "reason", "dry_run", "as_json"),
    } <= set(parameters(function))


def test_no_function_is_named_like_a_type_that_arguments_have() -> None:
    """A function named `secret` breaks every Secret argument of a module."""
    types = {"secret", "directory", "file", "service", "container"}
    assert not types & set(OBJECTS["VllmCi"].functions)


def test_test_is_a_check() -> None:
    assert OBJECTS["VllmCi"].functions["test"].check


def test_dagger_json_asks_for_no_more_than_the_api_that_is_used() -> None:
    # Container.from(registryService:) came with 0.21.6.
    assert CONFIG["engineVersion"] == "v0.21.6"
    assert CONFIG["sdk"] == {"source": "python"}


def test_the_module_loads_what_it_needs_and_nothing_else() -> None:
    included = set(CONFIG["include"])
    assert {"pyproject.toml", "requirements.lock", ".python-version", "pipeline/**", "images/**"} <= included
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    # The build backend refuses to work without these.
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= included
    assert {*project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]} <= {"images", "requirements.lock"}


def test_the_runtime_and_the_tool_have_the_same_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["dagger"]["base-image"] == f"python:{dagger_tool.PYTHON}-slim"
    # Read by uv and pyenv, and by the runtime if it finds no base image: any Python 3 has to do.
    assert (ROOT / ".python-version").read_text().strip() == "3"


def test_nothing_generated_is_committed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    assert not [name for name in tracked if name.startswith("sdk/") or name.endswith("dagger_gen.py")]


def locked(name: str) -> dict[str, str]:
    pins = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
    return {canonicalize_name(project): version for project, version in pins}


def test_the_lock_fits_the_project() -> None:
    """Dagger's runtime takes the lock for complete: what it lacks would be missing in the module."""
    found = locked("requirements.lock")
    wanted = [Requirement(each) for each in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]]
    lacking = [str(each) for each in wanted if not each.specifier.contains(found.get(canonicalize_name(each.name), "0"))]
    assert not lacking, "write it anew: ci/lock"


def test_the_sdk_is_an_extra_and_no_part_of_the_lock() -> None:
    """Inside a module the engine brings the SDK that fits it; a pin of ours would drift from it."""
    assert "dagger-io" not in locked("requirements.lock")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dagger"]
    assert f"dagger-io=={locked('requirements-dev.lock')['dagger-io']}" in extras
