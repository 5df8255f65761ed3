"""How a call ends that did not succeed, as the SDK's own entry point sees it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dagger.mod._module import Module

from vllm_ci.domain.errors import ConfigError
from vllm_ci.module import endings
from vllm_ci.module.endings import end, for_the_user
from vllm_ci.module.session import ending_well

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Client:
    """The part of the API that an ending uses."""

    def __init__(self) -> None:
        self.message, self.values, self.returned = "", dict[str, Any](), 0

    def error(self, message: str) -> Client:
        self.message = message
        return self

    def with_value(self, name: str, value: str) -> Client:
        self.values[name] = json.loads(value)
        return self

    def current_function_call(self) -> Client:
        return self

    async def return_error(self, error: Client) -> None:
        assert error is self
        self.returned += 1


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr(endings, "dag", made)
    return made


async def test_a_call_ends_with_the_message_alone_and_with_the_exit_code_of_a_command(client: Client) -> None:
    with pytest.raises(SystemExit) as ended:
        async with ending_well():
            raise ConfigError("the source has no x.yaml", remedy="name one")
    assert ended.value.code == 2
    assert client.message == "vllm-ci: the source has no x.yaml\n  do:  name one"
    # What makes `dagger call` exit with a code, and other modules get a dagger.ExecError (core/exec_error.go).
    assert client.values == {"_type": "EXEC_ERROR", "cmd": ["vllm-ci"], "exitCode": 2, "stdout": "", "stderr": ""}
    assert client.returned == 1


@pytest.mark.usefixtures("client")
async def test_the_sdk_prints_no_traceback_for_it(caplog: pytest.LogCaptureFixture) -> None:
    async def function() -> str:
        await end("no", 1)

    with pytest.raises(SystemExit):
        await Module().call(function)
    assert not caplog.records


async def test_what_is_no_error_of_ours_is_left_to_the_sdk(client: Client) -> None:
    with pytest.raises(ZeroDivisionError):
        async with ending_well():
            raise ZeroDivisionError
    assert not client.returned


def test_paths_of_containers_are_paths_of_the_checkout() -> None:
    assert for_the_user("/vllm-ci/in/source/images/own.yaml:3: no") == "images/own.yaml:3: no"
