"""How the arguments of a function become what the pipeline takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagger
import pytest
from dagger import dag

from vllm_ci.config.load import GENERATED_KEY, Loaded, load
from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.engines.dagger_caller import Function
from vllm_ci.module import session
from vllm_ci.module.main import VllmCi
from vllm_ci.module.session import Asked
from vllm_ci.programs import FOLDER


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def loaded(folder: Path, text: str = "") -> Loaded:
    file = folder / "vllm-ci.yaml"
    file.write_text(f"version: 1\n{text}")
    return load(file)


def asked(**more: Any) -> Asked:
    return Asked(source=dag.directory(), config="serving/vllm-ci.yaml", **more)


def path_of(handle: Any) -> str:
    return str(handle.handle._ctx.selections[-1].args["path"])


def test_the_variant_is_the_builder_s_to_find(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    assert session._project(found, asked()).build_args == ()
    assert session._project(found, asked(variant="cuda")).build_args == ("--image", "cuda")
    # A path is one of the source, which lies elsewhere in the builder's container.
    assert session._project(found, asked(variant="images/own.yaml")).build_args[1] == "{in.source}/images/own.yaml"


def test_the_key_of_a_server_is_the_given_one_the_configuration_s_or_a_new_one(tmp_path: Path) -> None:
    def key(text: str, **more: Any) -> str:
        return session._project(loaded(tmp_path, text), asked(**more)).server.api_key_env

    named, generated = "server: {api_key_env: LLM_API_KEY}\n", "server: {generate_api_key: true}\n"
    given = dag.set_secret("key", "x")
    assert [key(text) for text in ("", named, generated)] == ["", "LLM_API_KEY", GENERATED_KEY]
    assert [key(text, foreign=True) for text in ("", named, generated)] == ["", "LLM_API_KEY", ""]
    expected = [GENERATED_KEY, "LLM_API_KEY", GENERATED_KEY]
    for foreign in (False, True):
        assert [key(text, api_key=given, foreign=foreign) for text in ("", named, generated)] == expected


def test_stages_are_those_that_were_named(tmp_path: Path) -> None:
    found = session._project(loaded(tmp_path), asked(stages=("streaming",)))
    assert [stage.name for stage in found.stages] == ["streaming"]
    with pytest.raises(ConfigError, match="no stage nonsense"):
        session._project(loaded(tmp_path), asked(stages=("nonsense",)))


def test_a_model_in_the_source_is_taken_from_there(tmp_path: Path) -> None:
    found = session._model(loaded(tmp_path, "model: {path: ../models/small}\n"), asked(), "serving")
    assert path_of(found) == "models/small"


@pytest.mark.parametrize("path", ["/data/models/large", "../../models/large"])
def test_a_model_outside_of_the_source_has_to_be_passed(tmp_path: Path, path: str) -> None:
    found = loaded(tmp_path, f"model: {{path: {path}}}\n")
    with pytest.raises(ConfigError, match="--checkpoint"):
        session._model(found, asked(), "serving")
    passed = dag.directory().directory("mine")
    assert path_of(session._model(found, asked(checkpoint=passed), "serving")) == "mine"


def test_a_function_finds_the_programs_of_this_package_in_its_source() -> None:
    found = Function(package=dag.directory()).directory(FOLDER)
    assert found._ctx.selections[-1].args["path"] == "pipeline/vllm_ci/programs"


def test_settings_of_the_network_reach_the_tool_under_the_names_that_pip_and_apt_know() -> None:
    url, proxy = dag.set_secret("url", "x"), dag.set_secret("proxy", "y")
    make: Any = VllmCi
    tool = make(index=url, debian_mirror=url, proxy=proxy, python_image="mirror.example.com/python", cache="team")._tool()
    assert set(tool.network) == {
        *("PIP_INDEX_URL", "VLLM_CI_DEBIAN_MIRROR", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"),
    }
    assert (tool.python_image, tool.volume) == ("mirror.example.com/python", "team")


@pytest.mark.anyio
async def test_the_name_of_a_secret_is_the_last_part_of_its_address() -> None:
    class Given:
        def __init__(self, uri: str) -> None:
            self._uri = uri

        async def uri(self) -> str:
            return self._uri

    for uri in ("env://HF_TOKEN", "file:///run/secrets/HF_TOKEN", "op://vault/item/HF_TOKEN"):
        given: Any = Given(uri)
        assert await session.name_of(given) == "HF_TOKEN"


def test_the_api_of_the_sdk_is_the_one_that_was_used() -> None:
    """What is used here came late: an older SDK fails at once, not in the middle of a run."""
    for name in ("with_docker_healthcheck", "with_volatile_variable", "experimental_with_gpu"):
        assert hasattr(dagger.Container, name)


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "PYTHONHOME", "HOME"])
def test_a_secret_under_a_name_that_programs_need_is_refused(name: str) -> None:
    session._check_names(["HF_TOKEN", GENERATED_KEY, ""])
    with pytest.raises(UsageError, match=name):
        session._check_names(["HF_TOKEN", name])
