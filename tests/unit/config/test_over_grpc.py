"""A channel that serves gRPC: how its servers are started, and what is refused because only HTTP has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from standin.deploying import OLD, served, wanted
from vllm_ci.cli import root
from vllm_ci.config.deploy import DeploySettings
from vllm_ci.config.load import Loaded, load
from vllm_ci.deploy.journal import Journal
from vllm_ci.deploy.strategy import BlueGreen
from vllm_ci.deploy.verbs import begun
from vllm_ci.domain.errors import ConfigError, UsageError, VllmCiError
from vllm_ci.domain.gateway import GRPC_ROUTES, GatewaySettings
from vllm_ci.domain.project import ModelSpec, Project, ServerSpec, TinyModel
from vllm_ci.targets.local.observing import _failed_grpc
from vllm_ci.targets.revision import serving_of

Write = Callable[[str], Path]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes ``vllm-ci.yaml`` in the working directory, with `version: 1` and the default channels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))

    def made(text: str) -> Path:
        file = tmp_path / "vllm-ci.yaml"
        file.write_text(f"version: 1\n{text}", encoding="utf-8")
        return file

    return made


def refused(file: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(file)
    return caught.value


def deploy(text: str) -> str:
    return f"deploy:\n  protocol: grpc\n  {text}\n"


@pytest.mark.parametrize(
    ("text", "line", "key", "why"),
    [
        (deploy("target: kubernetes"), 4, "deploy.target", "not implemented for target `kubernetes`"),
        (deploy("scale: {min: 0, max: 2}"), 4, "deploy.scale", "servers are counted by the requests in vLLM's metrics"),
        (deploy("scale: {min: 1, max: 2}"), 4, "deploy.scale", "servers are counted"),
        (deploy("shadow: {compare: true}"), 4, "deploy.shadow.compare", "answers of HTTP can be compared"),
        (deploy("gateway: {api_keys: true, tokens_per_minute: 9}"), 4, "deploy.gateway", "`tokens_per_minute` (usage)"),
        (deploy("gateway: {api_keys: true, log_requests: true}"), 4, "deploy.gateway", "`log_requests` (chat requests)"),
        (deploy("gateway: {routes: [/v1/*]}"), 4, "deploy.gateway", "not a gRPC method: '/v1/*'"),
        (deploy("gateway: {routes: [/a.B/*], denied: [/a.B/C/d]}"), 4, "deploy.gateway", "not a gRPC method: '/a.B/C/d'"),
        (
            deploy("gateway: {routes: [/grpc.reflection.v1.ServerReflection/*]}"),
            4,
            "deploy.gateway",
            "reflection is a stream of requests",
        ),
        (deploy('analysis: {conditions: ["shadow.tokens >= 1"]}'), 4, "deploy.analysis.conditions.0", "no shadow.tokens"),
        (
            deploy('analysis: {conditions: ["errors <= 1%", "vllm:num_requests_waiting <= 9"]}'),
            4,
            "deploy.analysis.conditions.1",
            "no vllm:num_requests_waiting",
        ),
        (deploy("replicas: 1") + "server: {api_key_env: KEY}\n", 5, "server.api_key_env", "checks no key"),
        (deploy("replicas: 1") + "server: {env: {VLLM_API_KEY: x}}\n", 5, "server.env.VLLM_API_KEY", "checks no key"),
        (deploy("replicas: 1") + "monitoring: {channels: {staging: {}}}\n", 5, "monitoring.channels.staging", "no metrics"),
        (
            "deploy:\n  scale: {min: 1, max: 2}\n  channels:\n    production: {protocol: grpc}\n",
            3,
            "deploy.scale",
            "channel production has `protocol: grpc`",
        ),
        (
            "deploy:\n  channels:\n    production: {protocol: grpc, shadow: {compare: true}}\n",
            4,
            "deploy.channels.production.shadow.compare",
            "channel production",
        ),
        ("deploy: {protocol: rest}\n", 2, "deploy.protocol", "'http' or 'grpc'"),
    ],
)
def test_what_only_http_has_is_refused_by_name_and_line(write: Write, text: str, line: int, key: str, why: str) -> None:
    error = refused(write(text))
    assert f"vllm-ci.yaml:{line}: {key} is not valid" in error.message
    assert why in error.why
    assert error.remedy


def test_settings_of_a_channel_that_do_not_go_with_the_common_ones_are_refused_when_they_are_read(write: Write) -> None:
    text = "deploy:\n  gateway: {idle_timeout_s: 60}\n  channels:\n    production: {scale: {min: 0, wait: 90s}}\n"
    error = refused(write(text))
    assert "deploy.channels.production" in error.message
    assert "`scale.wait` must be below" in error.why


def test_one_channel_can_serve_grpc_beside_others(write: Write) -> None:
    found = load(write("deploy:\n  channels:\n    production: {protocol: grpc, gateway: {api_keys: true}}\n"))
    settings = found.config.deploy.of("production")
    gateway = settings.gateway.domain(settings.protocol)
    assert (gateway.protocol, gateway.routes, gateway.denied, gateway.api_keys) == ("grpc", GRPC_ROUTES, (), True)
    other = found.config.deploy.of("staging")
    assert other.gateway.domain(other.protocol) == GatewaySettings()


def test_a_service_can_be_let_through_as_a_whole_with_exceptions() -> None:
    given = {"gateway": {"routes": ["/vllm.grpc.engine.VllmEngine/*"], "denied": ["/vllm.grpc.engine.VllmEngine/FlushCache"]}}
    gateway = DeploySettings.model_validate({"protocol": "grpc", **given}).gateway.domain("grpc")
    assert (gateway.routes, len(gateway.denied)) == (("/vllm.grpc.engine.VllmEngine/*",), 1)


def project(**server: Any) -> Project:
    model = ModelSpec(served_name="m", tiny=TinyModel())
    return Project(name="p", config="", model=model, server=ServerSpec(**server), stages=())


@pytest.mark.parametrize(
    ("entry_point", "made"),
    [
        (["vllm", "serve"], ("vllm", "serve", "--grpc")),
        (["/opt/vllm/bin/vllm", "serve"], ("/opt/vllm/bin/vllm", "serve", "--grpc")),
        (
            ["/opt/vllm/bin/python", "-m", "vllm.entrypoints.launchers.api_server.entry"],
            ("/opt/vllm/bin/python", "-m", "vllm.entrypoints.launchers.grpc_server"),
        ),
        (["python3", "-m", "vllm.entrypoints.openai.api_server"], ("python3", "-m", "vllm.entrypoints.grpc_server")),
    ],
)
def test_servers_are_started_by_the_entry_point_of_grpc(entry_point: list[str], made: tuple[str, ...]) -> None:
    config, given = {"config": {"Entrypoint": entry_point}}, project(args=("--max-model-len=512",))
    found = serving_of(given, DeploySettings(protocol="grpc"), config, "{model}")
    plain = serving_of(given, DeploySettings(), config, "{model}")
    assert (found.protocol, plain.protocol) == ("grpc", "http")
    assert plain.argv[: len(entry_point)] == tuple(entry_point)
    flags = plain.argv[len(entry_point) :]
    assert found.argv in ((*made[:2], *flags, "--grpc"), (*made, *flags))


def test_an_entry_point_that_nobody_knows_is_refused() -> None:
    config = {"config": {"Entrypoint": ["/serve.sh"]}}
    with pytest.raises(UsageError, match=r"cannot be made to serve gRPC: /serve\.sh --model") as caught:
        serving_of(project(), DeploySettings(protocol="grpc"), config, "{model}")
    assert "entrypoint" in caught.value.remedy


def test_names_of_revisions_that_serve_http_are_those_of_before_and_others_differ() -> None:
    assert OLD.name == "aaaaaaaaaaaa-78494f10"
    assert replace(OLD, serving=replace(OLD.serving, protocol="grpc")).name != OLD.name


@pytest.mark.anyio
async def test_a_release_of_another_protocol_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    target = await served(tmp_path)
    before, what = await target.current(), wanted(BlueGreen())
    other = replace(what.revision, serving=replace(what.revision.serving, protocol="grpc"))
    with pytest.raises(UsageError, match="what serves speaks http, and this release would speak grpc"):
        await begun(target, Journal(tmp_path / "journal"), replace(what, revision=other))
    assert await target.current() == before


@pytest.mark.parametrize(
    ("row", "failed"),
    [
        ({"status": 200, "grpc_status": 0, "flags": "-"}, False),
        ({"status": 200, "grpc_status": 3, "flags": "-"}, False),
        ({"status": 200, "grpc_status": 8, "flags": "RL"}, False),
        ({"status": 200, "grpc_status": 16, "flags": "-"}, False),
        ({"status": 200, "grpc_status": 13, "flags": "-"}, True),
        ({"status": 200, "grpc_status": 14, "flags": "-"}, True),
        ({"status": 200, "grpc_status": 4, "flags": "-"}, True),
        ({"status": 200, "grpc_status": 2, "flags": "-"}, True),  # also what Envoy writes of an answer without a status
        ({"status": 200, "grpc_status": 2, "flags": "DR"}, False),
        ({"status": 0, "grpc_status": 2, "flags": "DC"}, False),
    ],
)
def test_a_server_is_to_blame_for_some_statuses(row: dict[str, Any], failed: bool) -> None:
    assert _failed_grpc(row) is failed


def call(*arguments: str) -> Any:
    result = CliRunner().invoke(root, arguments, standalone_mode=False)
    if isinstance(result.exception, VllmCiError):
        raise result.exception
    assert result.exception is None, result.exception
    return result


def test_a_channel_of_grpc_is_not_rendered_for_a_cluster(write: Write) -> None:
    write("deploy: {protocol: grpc}\n")
    with pytest.raises(UsageError, match="target kubernetes does not serve gRPC"):
        call("render", "kubernetes", "staging", "--output", "base")
    assert not Path("base").exists()


def test_a_channel_of_grpc_is_not_watched_and_others_are(write: Write) -> None:
    write("deploy: {channels: {production: {protocol: grpc}}}\nmonitoring: {prometheus: 'http://127.0.0.1:9'}\n")
    for command in (("monitoring", "rules"), ("watch",), ("monitoring", "targets"), ("monitoring", "dashboard")):
        with pytest.raises(ConfigError, match="production serves gRPC, which cannot be watched"):
            call(*command, "production")
    found = call("monitoring", "rules")
    assert "note: without production" in found.stderr
    assert "staging" in found.stdout
    assert "production" not in found.stdout


def test_where_all_channels_are_of_grpc_there_is_nothing_to_watch(write: Write) -> None:
    write("deploy: {protocol: grpc}\n")
    with pytest.raises(ConfigError, match="serves gRPC, which cannot be watched"):
        call("monitoring", "rules")


def test_a_target_that_is_named_on_the_command_line_is_checked_as_well(write: Write) -> None:
    from vllm_ci.cli import deploying
    from vllm_ci.config import releases

    found: Loaded = load(write("deploy: {protocol: grpc}\n"))
    with pytest.raises(UsageError, match="target kubernetes does not serve gRPC"):
        deploying.channel(releases.of(found), "staging", target="kubernetes")
