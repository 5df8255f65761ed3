"""What is asked of Dagger, recorded without an engine: its pipelines are lazy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagger
import gql
import pytest
from dagger import dag

from vllm_ci.domain.errors import EngineError, ServiceError, UsageError
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.program import Program, ServiceSpec
from vllm_ci.engines import dagger_errors, dagger_tool
from vllm_ci.engines.dagger import DaggerEngine, _with_gpus
from vllm_ci.engines.dagger_caller import MachineCaller, ModuleCaller, _literal
from vllm_ci.engines.dagger_service import DaggerService, Guarded
from vllm_ci.engines.dagger_tool import HOME, Tool

DIGEST = "sha256:" + "1" * 64


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def selected(thing: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(field.name, field.args) for field in thing._ctx.selections]


def named(thing: Any, name: str) -> list[dict[str, Any]]:
    return [args for each, args in selected(thing) if each == name]


def tool(**more: Any) -> Tool:
    return Tool(package=dag.directory(), **more)


def test_the_tool_installs_what_the_lock_names_with_its_hashes() -> None:
    commands = [args["args"] for args in named(tool().container(), "withExec")]
    install = next(command for command in commands if "pip" in command)
    assert "--require-hashes" in install
    assert install[install.index("--only-binary") + 1] == ":all:"


def test_the_optional_packages_are_installed_from_their_own_lock_and_only_where_they_are_needed() -> None:
    def installed(**more: Any) -> tuple[str, str]:
        made = tool(**more).container()
        mounted = named(made, "withMountedFile")[0]
        (install,) = (args["args"] for args in named(made, "withExec") if "pip" in args["args"])
        assert install[-1] == mounted["path"]
        assert "--require-hashes" in install
        return mounted["path"], selected(mounted["source"])[-1][1]["path"]

    assert installed() == ("/vllm-ci/requirements.lock", "requirements.lock")
    path, source = installed(extras=True)
    assert path == "/vllm-ci/extras.lock"
    assert (Path(dagger_tool.__file__).parents[2].parent / source).is_file()


def test_a_machine_may_name_the_cache_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted, found in (("", "vllm-ci"), ("team", "team")):
        monkeypatch.setenv("VLLM_CI_CACHE", wanted)
        assert dagger_tool.of_this_machine().volume == found


class Recorded:
    """A container that keeps how its commands are run."""

    def __init__(self) -> None:
        self.execs: list[dict[str, Any]] = []
        self.gpus: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_more: self

    def with_exec(self, _: Any, **how: Any) -> Recorded:
        self.execs.append(how)
        return self

    def experimental_with_all_gp_us(self) -> Recorded:
        self.gpus.append("all")
        return self

    def experimental_with_gpu(self, devices: list[str]) -> Recorded:
        self.gpus.append(devices)
        return self

    async def sync(self) -> None:
        pass

    async def contents(self) -> str:
        return json.dumps({"run": "x", "exit_code": 0, "seconds": 1.0, "log": "", "timed_out": False})


async def recorded(program: Program, monkeypatch: pytest.MonkeyPatch, *, nests: bool = False) -> Recorded:
    container = Recorded()

    async def made(*_: Any) -> Recorded:
        return container

    asked = DaggerEngine(caller=ModuleCaller(package=dag.directory()), tool=tool(), nests=nests)
    monkeypatch.setattr(asked, "_container", made)
    assert await asked.run(program)
    return container


@pytest.mark.anyio
async def test_only_programs_of_the_tool_may_use_the_engine_and_only_where_a_caller_wants_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An image is the user's code: it must not reach the engine."""
    tools, images = (
        Program(name="x", argv=("x",)),
        Program(name="x", argv=("x",), image=ImageRef(repository="r", digest=DIGEST)),
    )
    for program, nests, expected in ((tools, False, False), (tools, True, True), (images, True, False)):
        found = await recorded(program, monkeypatch, nests=nests)
        assert [each["experimental_privileged_nesting"] for each in found.execs] == [expected]


@pytest.mark.anyio
async def test_a_program_gets_the_gpus_that_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus, expected in (("none", []), ("all", ["all"]), ("0,1", [["0", "1"]])):
        found = await recorded(Program(name="x", argv=("x",), gpus=gpus), monkeypatch)
        assert found.gpus == expected


def test_the_tool_runs_in_an_image_that_a_mirror_may_have() -> None:
    made = tool(python_image="mirror.example.com/library/python:3.12-slim").container()
    assert named(made, "from") == [{"address": "mirror.example.com/library/python:3.12-slim"}]


def test_the_network_is_known_before_anything_is_fetched() -> None:
    made = tool(
        network={"PIP_INDEX_URL": dag.set_secret("index", "x")}, certificates=dag.directory().file("ca.pem")
    ).container()
    steps = selected(made)
    first = next(number for number, (name, _) in enumerate(steps) if name == "withExec")
    before = {(name, args.get("name")) for name, args in steps[:first]}
    assert ("withSecretVariable", "PIP_INDEX_URL") in before
    assert {("withEnvVariable", name) for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")} <= before


def test_credentials_are_no_part_of_the_environment_that_installs() -> None:
    """Another password must not make another image of the tool."""
    steps = selected(tool(secrets={"VLLM_CI_REGISTRY_PASSWORD": dag.set_secret("p", "x")}).container())
    last = max(number for number, (name, _) in enumerate(steps) if name == "withExec")
    assert ("withSecretVariable", "VLLM_CI_REGISTRY_PASSWORD") in {(name, args.get("name")) for name, args in steps[last:]}


def test_the_store_of_the_builder_outlives_a_call() -> None:
    made = tool(volume="team").container()
    assert {"path": HOME}.items() <= named(made, "withMountedCache")[-1].items()
    assert {"name": "VLLM_CI_HOME", "value": HOME} in named(made, "withEnvVariable")


def test_an_image_is_pulled_by_its_digest_from_the_store_of_the_builder() -> None:
    engine = DaggerEngine(caller=ModuleCaller(package=dag.directory()), tool=tool())
    made = engine.image(ImageRef(repository="registry.example.com:5000/team/vllm", digest=DIGEST))
    (pulled,) = named(made, "from")
    assert pulled["address"] == f"localhost:5000/vllm@{DIGEST}"
    (served,) = named(pulled["registryService"], "asService")
    assert served["args"][:4] == ["python", "-m", "vllm_ci.registry.server", "--layout"]


def test_a_service_is_waited_for_as_long_as_its_model_needs() -> None:
    spec = ServiceSpec(name="vllm", argv=("x",), ready=("y",), ready_timeout_s=3600, ready_interval_s=0.5)
    made = Guarded(spec=spec, container=dag.container(), argv=("x",), ready=("y", "z")).service()
    (check,) = named(made, "withDockerHealthcheck")
    assert check["args"] == ["y", "z"]
    assert (check["startPeriod"], check["interval"], check["startInterval"]) == ("3600s", "0.5s", "0.5s")


@pytest.mark.anyio
async def test_no_gpus_cost_nothing() -> None:
    made = dag.container()
    assert await _with_gpus(made, "none") is made


@pytest.mark.anyio
async def test_a_server_of_somebody_else_is_taken_for_alive() -> None:
    service = DaggerService(name="vllm", port=8000, handle=dag.container().as_service())
    assert await service.alive()
    assert await service.log() == ""


def test_a_function_takes_its_secrets_from_its_arguments_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "of the machine")
    with pytest.raises(EngineError, match="--secrets env://HF_TOKEN"):
        ModuleCaller(package=dag.directory()).secret("HF_TOKEN")


def test_a_machine_takes_its_secrets_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(EngineError, match="variable HF_TOKEN is not set"):
        MachineCaller().secret("HF_TOKEN")


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *arguments], cwd=folder, check=True)


def test_of_a_checkout_what_git_ignores_stays_behind(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_text("*.log\nbuild/\n")
    for name in ("kept.py", "odd[1].log", "build/deep/file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "tracked.log").write_text("x")
    git(tmp_path, "add", "--force", "tracked.log")
    (asked,) = named(MachineCaller().directory(tmp_path), "directory")
    assert sorted(asked["exclude"]) == ["build", r"odd\[1\].log"], "tracked files stay, whatever .gitignore says"


@pytest.mark.parametrize(
    ("path", "pattern"), [("a/b/", "a/b"), ("x*y?", r"x\*y\?"), ("!bang", r"\!bang"), ("#hash", r"\#hash")]
)
def test_a_path_as_a_pattern_matches_itself_alone(path: str, pattern: str) -> None:
    assert _literal(path) == pattern


def test_a_worktree_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("gitdir: /elsewhere\n")
    with pytest.raises(UsageError, match="git clone --local"):
        MachineCaller().directory(tmp_path)


def exec_error(**extensions: Any) -> dagger.QueryError:
    found = {"_type": "EXEC_ERROR", "cmd": ["x"], "exitCode": 9, "stdout": "said", "stderr": "cried", **extensions}
    value = dagger._exceptions.QueryErrorValue(message="exit code: 9", extensions=found)
    return dagger.QueryError([value], gql.gql("{ version }"))


def test_errors_of_dagger_become_ours_by_their_type() -> None:
    with pytest.raises(EngineError, match=r"(?s)could not build.*said.*cried"), dagger_errors.translated("build"):
        raise exec_error()
    with pytest.raises(EngineError, match="could not build"), dagger_errors.translated("build"):
        raise dagger.TransportError("gone")


def test_errors_of_ours_pass_as_they_are() -> None:
    with pytest.raises(ServiceError, match="died"), dagger_errors.translated("start"):
        raise ServiceError("died")


@pytest.mark.slow
def test_without_the_sdk_the_engine_says_what_to_install() -> None:
    code = "import sys; sys.modules['dagger'] = None; from vllm_ci.engines import open_engine; open_engine('dagger')"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "vllm-ci[dagger]" in done.stderr


@pytest.mark.slow
def test_the_command_line_loads_without_dagger() -> None:
    code = (
        "import sys; sys.modules['dagger'] = None\n"
        "import vllm_ci.cli, vllm_ci.cli.run, vllm_ci.cli.build, vllm_ci.pipeline.steps, vllm_ci.engines.host"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def engine(session: str = "") -> DaggerEngine:
    return DaggerEngine(caller=ModuleCaller(package=dag.directory()), tool=tool(), session=session)


def test_functions_of_a_session_ask_for_the_same_runs() -> None:
    """An engine gives one run to all that ask for the same; the second run of a program is another one."""
    build, unit = Program(name="build", argv=("x",)), Program(name="unit", argv=("y",))
    one, two = engine("s"), engine("s")
    assert [one._nonce(build), one._nonce(unit), one._nonce(build)] == [two._nonce(build), two._nonce(unit), two._nonce(build)]
    assert one._nonce(build) != two._nonce(unit)
    assert engine("s")._nonce(build) != engine("t")._nonce(build)


def test_without_a_session_every_run_is_a_run_of_its_own() -> None:
    program = Program(name="build", argv=("x",))
    made = engine()
    assert len({made._nonce(program), made._nonce(program), engine()._nonce(program)}) == 3
