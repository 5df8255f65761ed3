"""What the function bench asks the command line for, and what it refuses."""

from __future__ import annotations

from typing import Any

import click
import pytest
from dagger import dag

from vllm_ci.cli.bench import bench as command
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.program import fill
from vllm_ci.engines.dagger_service import DaggerService
from vllm_ci.module import bench
from vllm_ci.module.main import VllmCi

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Asked(Exception):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.options = options


async def options(monkeypatch: pytest.MonkeyPatch, **given: Any) -> dict[str, Any]:
    """The options that the function passes on."""

    async def measured(_settings: Any, _server: Any, _url: str, found: dict[str, Any]) -> str:
        raise Asked(found)

    monkeypatch.setattr(bench, "measured", measured)
    make: Any = VllmCi
    with pytest.raises(Asked) as asked:
        await make(source=dag.directory()).bench(**given)
    return asked.value.options


def parsed(argv: list[str]) -> dict[str, Any]:
    """The options as the command line understands them."""
    context = command.make_context("bench", argv, resilient_parsing=False)
    return dict(context.params)


def argv(given: dict[str, Any], *, url: str = "http://llm.example.com", key: str = "") -> list[str]:
    words = bench.program(None, url, given, key=key).argv
    return list(words[words.index("bench") + 1 :])


async def test_the_command_line_understands_every_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    given = await options(
        monkeypatch, workload="code", rate=2.5, duration="2m", ttft=500.0, tpot=50.0, overload=True, as_json=True, model="m"
    )
    found = parsed(argv(given))
    assert found["urls"] == ("http://llm.example.com",)
    assert (found["workload"], found["rate"], found["duration"], found["model"]) == ("code", 2.5, 120.0, "m")
    assert (found["ttft"], found["tpot"], found["overload"], found["as_json"]) == (500.0, 50.0, True, True)
    assert found["concurrency"] is None
    assert not found["sweep"]


async def test_without_arguments_the_defaults_are_those_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    given = await options(monkeypatch)
    bare = parsed(["--url=http://llm.example.com"])
    assert {**parsed(argv(given)), "workload": None} == bare, "the workload chat is the default in both"


async def test_options_that_were_not_given_are_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep chooses its times itself, and refuses a duration."""
    given = await options(monkeypatch, sweep=True, ttft=500.0)
    assert argv(given) == ["--url=http://llm.example.com", "--workload=chat", "--ttft=500.0", "--sweep"]


async def test_a_rate_is_passed_on_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    given = await options(monkeypatch, rate=0.1234567)
    assert parsed(argv(given))["rate"] == 0.1234567


async def test_a_workload_that_does_not_exist_is_refused_by_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    given = await options(monkeypatch, workload="chatter")
    with pytest.raises(click.BadParameter):
        parsed(argv(given))


def test_a_service_is_bound_and_its_port_is_in_the_url() -> None:
    service: Any = object()
    found = bench.program(DaggerService(name="vllm", port=9000, handle=service), "", {}, key="LLM_KEY")
    assert [fill(word, {"url.server": "http://server:9000", "out": "/out"}) for word in found.argv][-2:] == [
        "--url=http://server:9000",
        "--api-key-env=VLLM_CI_BENCH_API_KEY",
    ]
    assert set(found.needs) == {"server"}
    assert found.secrets == ("VLLM_CI_BENCH_API_KEY=LLM_KEY",)
    assert found.cache_key == ""


@pytest.mark.parametrize("url", ["http://localhost:8000", "http://127.0.0.1:8000/v1", "http://[::1]:8000"])
def test_an_address_of_the_callers_machine_is_refused_with_the_way_to_pass_it(url: str) -> None:
    with pytest.raises(UsageError, match="--server tcp://localhost:8000"):
        bench.check(url, served=False)


def test_a_service_and_a_url_are_refused_together() -> None:
    with pytest.raises(UsageError, match="cannot be used together"):
        bench.check("http://llm.example.com", served=True)
    bench.check("http://llm.example.com", served=False)
    bench.check("", served=True)
