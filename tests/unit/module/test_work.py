"""How the settings of the module become what the pipeline takes, and what is refused before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import dagger
import pytest
from dagger import dag

from vllm_ci.config.load import GENERATED_KEY, Loaded, load
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import ConfigError, EngineError, UsageError
from vllm_ci.engines.dagger_caller import ModuleCaller
from vllm_ci.engines.dagger_look import Seen
from vllm_ci.module import checkout, own, session, wanted
from vllm_ci.module.enums import Variant
from vllm_ci.module.main import VllmCi
from vllm_ci.module.wanted import Wanted
from vllm_ci.programs import FOLDER

MODULE_FILE = "pipeline/vllm_ci/module/main.py"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Held:
    """A directory that an engine would hold."""

    def __init__(self, **files: str) -> None:
        self._files = files

    async def exists(self, path: str, **_: Any) -> bool:
        return path in self._files

    def directory(self, path: str) -> Held:
        return Held(**{name: text for name, text in self._files.items() if name.startswith(f"{path}/")})

    def file(self, path: str) -> Any:
        files = self._files

        class File:
            async def contents(self) -> str:
                return files[path]

        return File()


class Given:
    """A secret, by its address."""

    def __init__(self, uri: str, value: str | None = "x", name: str = "") -> None:
        self._uri, self._value, self._name = uri, value, name

    async def uri(self) -> str:
        return self._uri

    async def name(self) -> str:
        return self._name

    async def plaintext(self) -> str:
        if self._value is None:
            raise dagger.DaggerError("secret env var not found")
        return self._value


def loaded(folder: Path, text: str = "") -> Loaded:
    file = folder / "vllm-ci.yaml"
    file.write_text(f"version: 1\n{text}")
    return load(file)


def settings(**more: Any) -> Any:
    make: Any = VllmCi
    return make(**{"source": dag.directory(), "config": "serving/vllm-ci.yaml", **more})


def project(found: Loaded, asked: Wanted | None = None, **more: Any) -> Any:
    return session._project(found, settings(**more), asked or Wanted())


class Exporting:
    """The part of the API that copies a folder into a function."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}

    def directory(self) -> Exporting:
        return self

    def with_directory(self, path: str, directory: Held, *, include: list[str]) -> Exporting:
        assert include == ["**/*.py"]
        self._files |= {name: text for name, text in directory._files.items() if name.startswith(path)}
        return self

    async def export(self, path: str) -> None:
        for name, text in self._files.items():
            Path(path, name).parent.mkdir(parents=True, exist_ok=True)
            Path(path, name).write_text(text, encoding="utf-8")


def path_of(handle: Any) -> str:
    return str(handle.handle._ctx.selections[-1].args["path"])


def test_the_variant_is_the_builder_s_to_find(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    assert project(found).build_args == ()
    assert project(found, variant=Variant.CUDA).build_args == ("--image", "cuda")
    # A path is one of the source, which lies elsewhere in the builder's container.
    assert project(found, spec="images/own.yaml").build_args == ("--image", "{in.source}/images/own.yaml")
    with pytest.raises(UsageError, match="--variant and --spec"):
        project(found, variant=Variant.CPU, spec="images/own.yaml")


def test_the_key_of_a_server_is_the_given_one_the_configuration_s_or_a_new_one(tmp_path: Path) -> None:
    def key(text: str, *, foreign: bool = False, **more: Any) -> Any:
        return project(loaded(tmp_path, text), Wanted(foreign=foreign), **more).server.api_key_env

    named, generated = "server: {api_key_env: LLM_API_KEY}\n", "server: {generate_api_key: true}\n"
    given = dag.set_secret("key", "x")
    assert [key(text) for text in ("", named, generated)] == ["", "LLM_API_KEY", GENERATED_KEY]
    assert [key(text, foreign=True) for text in ("", named, generated)] == ["", "LLM_API_KEY", ""]
    expected = [GENERATED_KEY, "LLM_API_KEY", GENERATED_KEY]
    for foreign in (False, True):
        assert [key(text, api_key=given, foreign=foreign) for text in ("", named, generated)] == expected


def test_stages_are_those_that_were_named(tmp_path: Path) -> None:
    found = project(loaded(tmp_path), Wanted(stages=("streaming",)))
    assert [stage.name for stage in found.stages] == ["streaming"]
    with pytest.raises(ConfigError, match="unknown stage: nonsense"):
        project(loaded(tmp_path), Wanted(stages=("nonsense",)))


@pytest.mark.anyio
@pytest.mark.parametrize(("key", "place"), [("", "serving/ci/pipeline.py"), ("pipeline: ../mine.py\n", "")])
async def test_a_policy_may_require_a_stage_that_the_pipeline_of_the_source_defines(
    monkeypatch: pytest.MonkeyPatch, key: str, place: str
) -> None:
    async def checked(_: Any) -> None:
        """The source is a checkout."""

    monkeypatch.setattr(checkout, "check", checked)
    text = f"version: 1\n{key}release: {{channels: {{staging: {{tests: {{smoke: passed}}}}}}}}\n"
    files = {"serving/vllm-ci.yaml": text, place or "mine.py": "@stage\nasync def smoke(server): ...\n"}
    if place:
        found = await session.configuration(settings(source=Held(**files)))
        assert list(found.config.release.channels["staging"].tests or ()) == ["smoke"]
    else:  # a path that leaves the project's directory is no pipeline
        with pytest.raises(ConfigError, match="pipeline is not valid"):
            await session.configuration(settings(source=Held(**files)))


def test_a_model_in_the_source_is_taken_from_there(tmp_path: Path) -> None:
    found = session._model(loaded(tmp_path, "model: {path: ../models/small}\n"), settings(), "serving")
    assert path_of(found) == "models/small"


@pytest.mark.parametrize("path", ["/data/models/large", "../../models/large"])
def test_a_model_outside_of_the_source_has_to_be_passed(tmp_path: Path, path: str) -> None:
    found = loaded(tmp_path, f"model: {{path: {path}}}\n")
    with pytest.raises(ConfigError, match="--checkpoint"):
        session._model(found, settings(), "serving")
    passed = dag.directory().directory("mine")
    assert path_of(session._model(found, settings(checkpoint=passed), "serving")) == "mine"


class OpenEngine:
    """An engine without GPUs that nothing is run on."""

    tool = None

    def __init__(self, **_: Any) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def check_gpus(self, gpus: str) -> None:
        if gpus != "none":
            raise EngineError(f"no GPUs (requested: {gpus})")


@pytest.mark.anyio
async def test_a_model_of_the_repository_stops_only_functions_that_would_serve_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A project that serves `chat@champion` can still build, release, and retrain."""

    async def looked(*_: Any) -> Seen:
        return Seen(commit=Commit(sha="1" * 40), changed=None, empty=False)

    async def identified() -> str:
        return "s"

    async def ended(text: str, exit_code: int) -> None:
        raise ConfigError(f"{exit_code}: {text}")

    for place, name, value in (
        (session, "DaggerEngine", OpenEngine),
        (session, "identity", identified),
        (session, "end", ended),
        (session, "package", dag.directory),
        (checkout, "look", looked),
    ):
        monkeypatch.setattr(place, name, value)
    config = "version: 1\nmodel: {ref: chat@champion}\n"
    given = settings(source=Held(**{".git": "", "vllm-ci.yaml": config}), config="vllm-ci.yaml")
    for asked in (Wanted(), Wanted(retrains=True), Wanted(foreign=True)):
        async with session.opened(given, asked) as found:
            assert found.source.model is None
    with pytest.raises(ConfigError, match=r"3: .*requested: 1"):
        async with session.opened(given, Wanted(retrains=True, gpus="1")):
            pass
    with pytest.raises(ConfigError, match=r"(?s)2: .*chat@champion is not pulled by this function.*--checkpoint"):
        async with session.opened(given, Wanted(serves=True)):
            pass


def test_a_function_finds_the_programs_of_this_package_in_its_source() -> None:
    found = ModuleCaller(package=dag.directory()).directory(FOLDER)
    assert found._ctx.selections[-1].args["path"] == "pipeline/vllm_ci/programs"


@pytest.mark.anyio
async def test_settings_of_the_network_reach_the_tool_under_the_names_that_pip_and_apt_know() -> None:
    url, proxy = Given("env://URL"), Given("env://PROXY")
    given = settings(index=url, debian_mirror=url, proxy=proxy, python_image="mirror.example.com/python", cache="team")
    tool = await session.tool_of(given)
    assert set(tool.network) == {
        *("PIP_INDEX_URL", "VLLM_CI_DEBIAN_MIRROR", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"),
    }
    assert (tool.python_image, tool.volume) == ("mirror.example.com/python", "team")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("uri", "name"),
    [("env://HF_TOKEN", ""), ("file:///run/secrets/HF_TOKEN", ""), ("op://vault/item/HF_TOKEN", ""), ("", "HF_TOKEN")],
)
async def test_the_name_of_a_secret_is_the_last_part_of_its_address_or_what_a_module_calls_it(uri: str, name: str) -> None:
    given: Any = Given(uri, name=name)
    assert await wanted.name_of(given) == "HF_TOKEN"


@pytest.mark.anyio
async def test_a_secret_without_a_value_is_a_mistake_of_the_call_and_named() -> None:
    given: Any = Given("env://HF_TOKEN", None)
    with pytest.raises(UsageError, match=r"env://HF_TOKEN has no value[\s\S]*export HF_TOKEN=") as caught:
        await wanted.plaintexts([None, given])
    assert caught.value.exit_code == 2


@pytest.mark.anyio
async def test_a_secret_that_the_server_needs_is_asked_for_before_anything_is_built(tmp_path: Path) -> None:
    found = project(loaded(tmp_path, "server: {secrets: [HF_TOKEN]}\n"))
    assert await wanted.given(settings(), found, Wanted(serves=False)) == {}
    with pytest.raises(UsageError, match="--secrets env://HF_TOKEN"):
        await wanted.given(settings(), found, Wanted(serves=True))
    given = await wanted.given(settings(secrets=[Given("env://HF_TOKEN", "hf_1")]), found, Wanted(serves=True))
    assert given["HF_TOKEN"][1] == "hf_1"


def test_the_api_of_the_sdk_is_the_one_that_was_used() -> None:
    """What is used here came late: an older SDK fails at once, not in the middle of a run."""
    for name in ("with_docker_healthcheck", "with_volatile_variable", "experimental_with_gpu"):
        assert hasattr(dagger.Container, name)
    assert hasattr(dagger.Workspace, "client_id")


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "PYTHONHOME", "HOME"])
def test_a_secret_under_a_name_that_programs_need_is_refused(name: str) -> None:
    wanted.check_names(["HF_TOKEN", GENERATED_KEY, ""])
    with pytest.raises(UsageError, match=name):
        wanted.check_names(["HF_TOKEN", name])


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\nserver: {gpu: none}\n", r"^serving/vllm-ci\.yaml:2: "),
        ("version: [1\n", r"^serving/vllm-ci\.yaml:\d: invalid YAML"),
        ("- 1\n", r"^serving/vllm-ci\.yaml:1: the top level must be a mapping"),
    ],
)
async def test_a_mistake_in_the_configuration_is_found_under_the_path_in_the_checkout(text: str, message: str) -> None:
    given = settings(source=Held(**{".git": "", "serving/vllm-ci.yaml": text}))
    with pytest.raises(ConfigError, match=message):
        await session.configuration(given)


@pytest.mark.anyio
async def test_a_configuration_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"the source has no serving/vllm-ci\.yaml"):
        await session.configuration(settings(source=Held(**{".git": ""})))


@pytest.mark.anyio
@pytest.mark.parametrize("own", [True, False])
async def test_the_module_s_own_repository_is_a_source_only_of_calls_that_are_made_in_it(
    monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    async def called_in_it() -> bool:
        return own

    monkeypatch.setattr(checkout, "_called_in_the_modules_own", called_in_it)
    given = settings(source=Held(**{".git": "", MODULE_FILE: ""}))
    if own:
        await checkout.check(given)
    else:
        with pytest.raises(UsageError, match=r"pass --source \."):
            await checkout.check(given)
    await checkout.check(settings(source=Held(**{".git": ""})))
    with pytest.raises(UsageError, match=r"no directory \.git"):
        await checkout.check(settings(source=Held()))
    assert (Path(__file__).parents[3] / MODULE_FILE).is_file()


PIPELINE = """from vllm_ci import stage


async def pipeline(ci):
    return ci.report()


@stage
async def smoke(server):
    assert server
"""


@pytest.mark.anyio
async def test_a_pipeline_of_the_user_s_own_is_run_with_the_stages_that_it_defines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(own, "dag", Exporting())
    source = Held(**{"serving/ci/pipeline.py": PIPELINE})
    async with own.pipeline(settings(source=source), loaded(tmp_path)) as found:
        assert found is not None
        assert found.stages == ("smoke",)
        assert [each.name for each in session._project(loaded(tmp_path), settings(), Wanted(), own=found.stages).known]
        assert session._project(loaded(tmp_path), settings(), Wanted(stages=("smoke",)), own=found.stages).selected == (
            "smoke",
        )
    async with own.pipeline(settings(source=Held()), loaded(tmp_path)) as found:
        assert found is None
    async with own.pipeline(settings(source=source), loaded(tmp_path, "pipeline: default\n")) as found:
        assert found is None


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "files", "message"),
    [
        ("pipeline: other.py\n", {}, r"file not found: serving/other\.py"),
        ("", {"serving/ci/pipeline.py": "import nothing_of_that_name\n"}, r"^serving/ci/pipeline\.py:1: "),
    ],
)
async def test_a_pipeline_that_cannot_be_run_is_named_as_in_the_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, files: dict[str, str], message: str
) -> None:
    monkeypatch.setattr(own, "dag", Exporting())
    with pytest.raises(ConfigError, match=message):
        async with own.pipeline(settings(source=Held(**files)), loaded(tmp_path, text)):
            pass
