"""What Dagger is told about the module, seen without an engine."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import dagger
import pytest
from dagger.mod import default_module
from dagger.mod._utils import extract_enum_member_doc, get_doc
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vllm_ci.cli import COMMANDS
from vllm_ci.cli.model import model
from vllm_ci.cli.retrain import retrain
from vllm_ci.config import load
from vllm_ci.domain import report
from vllm_ci.engines import dagger_tool
from vllm_ci.module.arguments import Settings
from vllm_ci.module.credentials import Credentials
from vllm_ci.module.enums import Variant, Verdict
from vllm_ci.module.main import VllmCi
from vllm_ci.module.run import Run
from vllm_ci.stages import STAGES

ROOT = Path(__file__).parents[3]
CONFIG: dict[str, Any] = json.loads((ROOT / "dagger.json").read_text())
OBJECTS: dict[str, Any] = default_module()._objects
FUNCTIONS = [(name, function) for name, each in OBJECTS.items() for function in each.functions if function]
# A comparison needs a baseline and many minutes, so it is no check of its own: run --stages performance. The suite for gRPC
# needs the address of a server that runs already.
STAGE_CHECKS = set(STAGES) - {"performance", "grpc"}
CHECKS = {"test", *STAGE_CHECKS}
RELEASE_VERBS = {"publish", "promote", "rollback", "history", "verify", "prune", "policy"}
# The signature of a pulled model is a file of its own; the command line writes it beside the files.
MODEL_VERBS = {*model.commands, "signature"}
OPENING = {"release", "model", "retrain"}
# Verbs of the command line that are no function of the same name, and why.
ABSENT = {
    "server": "somebody else's server is tested with run --server",
    "config": "it explains files of the machine",
    "show": "Dagger shows results itself; the report is a field of Run",
    "lock": "it writes files of the checkout, which its author looks at",
    "image": "layers and digest are fields of Image",
    "cache": "the store is a cache volume: dagger core engine local-cache",
    "data": "training data are files of the machine",
    "dashboard": "it writes pages over reports and a ledger of the machine",
    "keys": "private keys are made where they are kept",
    "report": "reports are files of the machine; that of a run is a field of Run",
    "deploy": "servers outlive the command, and a container's do not",
    "agent": "it keeps a machine at what the ledger says",
    "gateway": "it changes the keys of a gateway of the machine",
    "render": "it prints manifests for files of the checkout",
    "monitoring": "it prints rules for files of the checkout",
    "watch": "it waits for hours beside a Prometheus of the operator",
}
# Functions that are no verb of the command line, and why.
ADDED = {
    **dict.fromkeys(STAGE_CHECKS, "a check, for dagger check"),
    "release": "holds the credentials of the verbs that are its functions",
}


def parameters(name: str, holder: str = "VllmCi") -> dict[str, Any]:
    return dict(OBJECTS[holder].functions[name].parameters)


def constructor() -> dict[str, Any]:
    return dict(OBJECTS["VllmCi"].get_constructor(default_module()._converter).parameters)


def test_the_main_object_is_named_after_the_module() -> None:
    pascal = "".join(part.capitalize() for part in CONFIG["name"].split("-"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["dagger.mod"]["main_object"] == f"{VllmCi.__module__}:{pascal}"
    assert set(OBJECTS) == {pascal, "Image", "Layer", "Models", "Release", "Retraining", Run.__name__, "StageResult"}


def test_functions_open_objects() -> None:
    found = {name: set(each.functions) - {""} for name, each in OBJECTS.items()}
    assert found == {
        "VllmCi": {"build", "run", "serve", "bench", "doctor", *OPENING, *CHECKS},
        "Image": {"container", "as_tarball", "sbom", "push"},
        "Layer": set(),
        "Run": {"stage", "assert_passed"},
        "StageResult": {"assert_passed"},
        "Release": RELEASE_VERBS,
        "Models": MODEL_VERBS,
        "Retraining": {"check", "run"},
    }
    names = ("build", "run", "serve", *OPENING)
    returned = {name: OBJECTS["VllmCi"].functions[name].return_type.__name__ for name in names}
    assert returned == {
        "build": "Image",
        "run": "Run",
        "serve": "Service",
        "release": "Release",
        "model": "Models",
        "retrain": "Retraining",
    }
    assert OBJECTS["Models"].functions["pull"].return_type is dagger.Directory
    assert OBJECTS["Models"].functions["signature"].return_type is dagger.File


def test_the_verbs_are_those_of_the_command_line() -> None:
    functions = {name for holder, name in FUNCTIONS if holder in {"VllmCi", "Release"}}
    assert set(COMMANDS) - functions == set(ABSENT)
    assert functions - set(COMMANDS) == set(ADDED)


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_every_function_says_for_how_long_its_result_is_good(name: str, function: str) -> None:
    """Nobody is served a verdict of last week: all read a clock, a package index, a server or a registry."""
    policy = OBJECTS[name].functions[function].cache_policy
    # What opens an object is called once a session, so that all that is asked of the object comes from one call.
    assert policy == ("session" if name == "VllmCi" and function in {"build", "run", *OPENING} else "never")


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_every_function_and_every_argument_is_explained(name: str, function: str) -> None:
    found = OBJECTS[name].functions[function]
    assert found.doc.endswith((".", "`."))
    unexplained = [each.name for each in found.parameters.values() if not each.doc]
    assert not unexplained


@pytest.mark.parametrize("name", sorted(OBJECTS))
def test_every_object_and_every_field_is_explained(name: str) -> None:
    """As the SDK reads it: of the annotation, which must not be a string."""
    assert get_doc(OBJECTS[name].cls)
    unexplained = [each.name for each in OBJECTS[name].fields.values() if not get_doc(each.return_type)]
    assert not unexplained


@pytest.mark.parametrize("enumeration", [Verdict, Variant])
def test_every_member_of_an_enumeration_is_explained(enumeration: type[enum.Enum]) -> None:
    explained = extract_enum_member_doc(enumeration)
    assert {member.name for member in enumeration} == {name for name, each in explained.items() if each.description}


def test_enumerations_have_what_they_enumerate() -> None:
    assert {each.value for each in Verdict} == {each.value for each in report.Verdict}
    shipped = {path.stem for path in (ROOT / "images").glob("*.yaml")}
    assert {each.value for each in Variant if each.value} == shipped - {"train"}, "that one serves nothing"


def test_all_that_the_functions_need_is_given_to_the_constructor_once() -> None:
    given = constructor()
    assert set(given) == {each.name for each in dataclasses.fields(Settings)}
    assert all(each.doc and each.is_optional for each in given.values())
    for holder, function in FUNCTIONS:
        # The base of a model that is added is the model it was made from, as on the command line.
        allowed = {"variant", *(["base"] if holder == "Models" else [])}
        assert not set(parameters(function, holder)) & (set(given) - allowed), f"{function} repeats the constructor"


def test_credentials_are_given_to_a_release_once() -> None:
    once = set(parameters("release"))
    assert {"username", "password", "ledger_password", "ssh_agent", "key", "passphrase", "by", "dry_run", "as_json"} <= once
    for verb in RELEASE_VERBS:
        assert not once & set(parameters(verb, "Release"))


def test_credentials_are_given_once_to_what_needs_them() -> None:
    shared = {each.name for each in dataclasses.fields(Credentials)} - {each.name for each in dataclasses.fields(Settings)}
    for opening, holder in (("release", "Release"), ("model", "Models"), ("retrain", "Retraining")):
        once = set(parameters(opening))
        assert shared <= once
        assert not any(once & set(parameters(verb, holder)) for verb in OBJECTS[holder].functions if verb)


# What a function says in another way than the command line, and how.
OTHERWISE = {
    "key": "once, with the credentials",
    "as_json": "once, with the credentials",
    "config": "the constructor's; that of a retraining is `plan`",
    "gpus": "the constructor's",
    "ref": "called by what the help calls it: model",
    "first": "called by what the help calls it: model",
    "second": "called by what the help calls it: other",
    "licence": "called as the option: license",
    "to": "the directory that is returned",
    "signature": "a function of its own",
    "engine": "this one",
    "dry_run": "of a retraining: `check`",
    "mlflow": "a directory that `mlflow artifacts download` made: the container has no program of the machine",
    "show_log": "always: files of the container are lost",
}


@pytest.mark.parametrize("verb", sorted(model.commands))
def test_a_model_command_has_the_arguments_of_the_command_line(verb: str) -> None:
    """With one exception each: the other name, or where it is said instead."""
    command = {str(each.name) for each in model.commands[verb].params}
    function = set(parameters(verb, "Models"))
    assert function - command <= {"model", "other", "license"}
    assert command - function <= set(OTHERWISE) - ({"to", "dry_run"} if verb == "rollback" else set())
    assert ("dry_run" in function) == ("dry_run" in command)


def test_a_retraining_has_the_arguments_of_the_command_line() -> None:
    command = {str(each.name) for each in retrain.params}
    credentials = {each.name for each in dataclasses.fields(Credentials)}
    function = set(parameters("run", "Retraining")) | (set(parameters("retrain")) - credentials)
    assert function - command == {"plan"}
    assert command - function == {"config", "key", "gpus", "engine", "dry_run", "show_log", "as_json"} <= set(OTHERWISE)


def test_the_source_is_the_repository_unless_it_is_named() -> None:
    source = constructor()["source"]
    assert source.default_path == "/"
    assert not any(each.startswith(".git") for each in source.ignore), "the commit could not be told"


def test_defaults_are_those_of_the_command_line() -> None:
    given = constructor()
    assert json.loads(given["config"].default_value) == load.FILE_NAME
    assert json.loads(given["python_image"].default_value) == f"python:{dagger_tool.PYTHON}-slim"


def test_only_what_nobody_could_guess_has_to_be_named() -> None:
    needed = {
        (name, each.name) for holder, name in FUNCTIONS for each in parameters(name, holder).values() if not each.is_optional
    }
    assert needed == {
        ("push", "registry"),
        ("stage", "name"),
        ("promote", "from"),
        ("promote", "channel"),
        ("rollback", "channel"),
        ("verify", "image"),
        ("policy", "channel"),
        *((verb, "model") for verb in ("show", "diff", "verify", "pull", "signature")),
        ("diff", "other"),
        ("add", "name"),
        ("alias", "name"),
        ("alias", "assignment"),
        ("rollback", "name"),
        ("rollback", "alias"),
    }


@pytest.mark.parametrize(("name", "function"), [*FUNCTIONS, ("VllmCi", "")])
def test_what_is_secret_comes_as_a_secret(name: str, function: str) -> None:
    for each in (parameters(function, name) if function else constructor()).values():
        if each.name.endswith(("username", "password", "passphrase", "api_key")) or each.name == "key":
            assert each.resolved_type == dagger.Secret | None
        if each.name == "secrets":
            assert each.resolved_type == list[dagger.Secret] | None


def test_no_function_is_named_like_a_type_that_arguments_have() -> None:
    """A function named `secret` breaks every Secret argument of a module."""
    types = {"secret", "directory", "file", "service", "container"}
    assert not types & set(OBJECTS["VllmCi"].functions)


def test_stages_and_test_are_checks_without_arguments() -> None:
    checks = {name for holder, name in FUNCTIONS if OBJECTS[holder].functions[name].check}
    assert checks == CHECKS
    assert not any(parameters(name) for name in checks)


def test_the_server_is_a_service_of_dagger_up() -> None:
    assert OBJECTS["VllmCi"].functions["serve"].service


@pytest.mark.slow
def test_the_main_object_loads_nothing_heavy() -> None:
    """Each call imports it twice: for the constructor and for the function."""
    code = "import sys, dagger.mod; before = set(sys.modules); import vllm_ci.module.main; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT / "pipeline")
    assert {name for name in done.stdout.split() if not name.startswith("vllm_ci")} <= {"dagger"}
    assert not {"vllm_ci.config.load", "vllm_ci.module.session", "vllm_ci.engines.dagger"} & set(done.stdout.split())


@pytest.mark.slow
def test_a_call_loads_no_report_before_it_has_one() -> None:
    """`build digest` and a call that is refused need neither templates nor reports."""
    code = "import sys, vllm_ci.module.work; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT / "pipeline")
    assert not {"jinja2", "vllm_ci.report.folder", "vllm_ci.cli.progress"} & set(done.stdout.split())


def test_dagger_json_asks_for_no_more_than_the_api_that_is_used() -> None:
    # Container.from(registryService:) came with 0.21.6.
    assert CONFIG["engineVersion"] == "v0.21.6"
    assert CONFIG["sdk"] == {"source": "python"}


def test_the_module_loads_what_it_needs_and_nothing_else() -> None:
    """A commit that changes nothing of this loads nothing again: it costs an installation otherwise."""
    everything, *patterns = CONFIG["include"]
    assert everything == "!**", "Dagger puts * before these patterns when the module's source is the repository itself"
    included = set(patterns)
    needed = {"dagger.json", "hatch_build.py", "pyproject.toml", "requirements.lock", ".python-version", "LICENSE"}
    assert included == {*needed, "pipeline/**", "images/**", "!**/__pycache__"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    # The build backend refuses to work without these.
    assert project["project"]["readme"].startswith("pipeline/")
    assert set(project["project"]["license-files"]) <= included
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


def test_the_extras_of_the_tool_are_those_of_the_package_beside_the_same_packages() -> None:
    """The tool's container has the SDK of the tested version, and nothing else than the lock but for what extras bring."""
    extras, lock = locked("pipeline/vllm_ci/engines/extras.lock"), locked("requirements.lock")
    assert lock.items() <= extras.items(), "write it anew: ci/lock"
    assert {name: extras.get(name) for name in ("dagger-io", "huggingface-hub")} == {
        name: locked("requirements-dev.lock")[name] for name in ("dagger-io", "huggingface-hub")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = [Requirement(each) for extra in ("dagger", "hub") for each in project[extra]]
    assert not [str(each) for each in wanted if not each.specifier.contains(extras.get(canonicalize_name(each.name), "0"))]


def test_the_sdk_is_an_extra_and_no_part_of_the_lock() -> None:
    """Inside a module the engine brings the SDK that fits it; a pin of ours would drift from it."""
    assert "dagger-io" not in locked("requirements.lock")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dagger"]
    assert f"dagger-io=={locked('requirements-dev.lock')['dagger-io']}" in extras
