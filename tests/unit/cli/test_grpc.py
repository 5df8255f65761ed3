"""`vllm-ci test --grpc`: the first contact, the run, and what is said where it cannot run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
import trustme
from click.testing import CliRunner

from doubles import grpc_run
from doubles.grpc_double import CODES, HEALTH, GrpcDouble, running
from doubles.grpc_messages import ENGINE, MESSAGES, METHODS, POOL, pool
from unit.cli.contacted import Scripted, closed_port, command
from vllm_ci.cli import foreign, root, run
from vllm_ci.cli.contact import contact
from vllm_ci.domain.errors import ErroredError, UsageError
from vllm_ci.domain.stage import StageSpec
from vllm_ci.stages.stage import StageContext
from vllm_ci.suites.grpc import address as addresses
from vllm_ci.suites.grpc.address import parse
from vllm_ci.suites.grpc.reaching import reached

KEY = "GRPC_TEST_KEY"


def of(address: str, *, key: str = "") -> StageContext:
    return StageContext(spec=StageSpec(name=""), grpc=address, api_key_env=key)


class Guarded(GrpcDouble):
    key = "right"


class Others(GrpcDouble):
    """Another service, with reflection."""

    services = (HEALTH, "sglang.grpc.scheduler.SglangScheduler")


class Undescribed(GrpcDouble):
    """Without reflection."""

    reflects = ()


class Foreign(Undescribed):
    """A gRPC server without vLLM's service."""

    def handlers(self) -> Iterator[Any]:
        yield from list(super().handlers())[1:]


class Silent(GrpcDouble):
    def get_model_info(self, request: Any, context: Any) -> Any:
        context.abort(CODES.DEADLINE_EXCEEDED, "too late")
        return super().get_model_info(request, context)


class Undefined(GrpcDouble):
    """Lists the service, but does not describe it."""

    def described(self) -> Any:
        return type(POOL)()


class Renamed(GrpcDouble):
    """Another protocol under the same name."""

    def described(self) -> Any:
        fields = tuple(field for field in MESSAGES["SamplingParams"] if "ignore_eos" not in field)
        return pool({**MESSAGES, "SamplingParams": fields})


class Ungenerating(GrpcDouble):
    """A version without the method that is tested."""

    def described(self) -> Any:
        return pool(methods={name: each for name, each in METHODS.items() if name != "Generate"})


def refused(address: str, *, key: str = "") -> ErroredError:
    with pytest.raises(ErroredError) as caught:
        contact(of(address, key=key), None)
    return caught.value


@pytest.mark.parametrize(
    ("make", "message", "remedy"),
    [
        (Guarded, "requires an API key: UNAUTHENTICATED", "--api-key-env"),
        (Others, f"the server has no service {ENGINE}; it lists", "--grpc"),
        (Undescribed, "the server has no reflection, and the package smg-grpc-proto", "smg-grpc-proto"),
        (Silent, "does not answer within", "wait until the server is ready"),
        (Undefined, "does not describe", "--grpc"),
        (Renamed, "Generate of this server lacks ignore_eos: another protocol", "--grpc"),
        (Ungenerating, "has no method Generate", "--grpc"),
    ],
)
def test_what_keeps_a_service_from_being_tested_is_said_once(make: type[GrpcDouble], message: str, remedy: str) -> None:
    with running(make) as (address, _):
        error = refused(address)
    assert message in error.message
    assert remedy in error.remedy


def test_a_wrong_key_is_refused_and_the_right_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(Guarded) as (address, _):
        monkeypatch.setenv(KEY, "wrong")
        assert "refuses the API key" in refused(address, key=KEY).message
        monkeypatch.setenv(KEY, "right")
        contact(of(address, key=KEY), None)


def test_nobody_listens() -> None:
    error = refused(f"127.0.0.1:{closed_port()}")
    assert "cannot be reached: Connection refused" in error.message
    assert "\n" not in error.message


def test_a_name_that_is_not_known() -> None:
    assert "is not known" in refused("no-such-host.invalid:50051").message


def test_an_http_server_speaks_no_grpc() -> None:
    with Scripted().running() as port:
        error = refused(f"127.0.0.1:{port}")
    assert "does not speak gRPC" in error.message
    assert "--url" in error.remedy


@pytest.mark.slow
def test_a_service_without_reflection_is_tested_with_the_messages_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "smg_grpc_proto", grpc_run.package())
    found = grpc_run.run(Undescribed, ["test_facts.py", "test_generation.py::test_tokens_are_of_the_vocabulary"], patient=True)
    assert set(found.statuses.values()) == {"passed", "skipped"}, found.messages
    assert "has no reflection" in found.messages["grpc/test_facts.py::test_reflection_lists_what_is_served"]
    with running(Foreign) as (address, _):
        assert f"but without the service {ENGINE}" in refused(address).message


@pytest.mark.slow
def test_tls_is_used_and_the_authority_must_be_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    pairs = [(own.private_key_pem.bytes(), b"".join(blob.bytes() for blob in own.cert_chain_pems))]
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    with running(GrpcDouble, credentials=grpc.ssl_server_credentials(pairs)) as (address, _):
        plain = refused(address)
        assert "does not speak gRPC" in plain.message
        assert "grpcs://" in plain.remedy
        assert "--ca-file" in refused(f"grpcs://{address}").why
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        contact(of(f"grpcs://{address}"), None)
        found = grpc_run.against(f"grpcs://{address}", ["test_health.py"], given=["--vllm-ca-file", str(file)], patient=True)
    assert set(found.statuses.values()) == {"passed"}, found.messages


@pytest.mark.slow
def test_a_slow_service_gets_longer_deadlines() -> None:
    class Slow(GrpcDouble):
        token_s = 0.15

    with running(Slow) as (address, _), ExitStack() as stack:
        assert reached(parse(address), stack=stack).slowness > 1.5


@pytest.mark.slow
def test_the_run_reports_the_stage(tmp_path: Path) -> None:
    with running(GrpcDouble) as (address, _):
        done = command(tmp_path, "--grpc", address, "-k", "test_health.py", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(stage["name"], stage["verdict"], stage["cases"]["passed"]) for stage in found["stages"]] == [("grpc", "passed", 5)]
    assert found["commit"] is None


@pytest.mark.slow
def test_a_broken_service_fails_the_run_and_says_how_to_repeat_it(tmp_path: Path) -> None:
    class Lying(GrpcDouble):
        def health(self, service: str) -> int | None:  # noqa: ARG002
            return 2

    with running(Lying) as (address, _):
        done = command(tmp_path, "--grpc", address, "-k", "test_the_server_says_that_it_serves", "--json")
    assert done.returncode == 1, done.stderr
    (stage,) = json.loads(done.stdout)["stages"]
    assert "NOT_SERVING" in stage["failures"][0]["message"]
    page = Path(json.loads(done.stdout)["report_dir"]) / "report.html"
    assert "vllm-ci test --grpc 127.0.0.1:50051 -k" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_service_that_is_not_there_ends_the_command_with_one_message(tmp_path: Path) -> None:
    done = command(tmp_path, "--grpc", f"127.0.0.1:{closed_port()}", "--json")
    assert done.returncode == 3
    assert done.stderr.splitlines()[0].startswith("vllm-ci: 127.0.0.1:")
    assert json.loads(done.stdout)["verdict"] == "errored"


def opened(url: str = "", address: str = "", *named: str) -> foreign.Foreign:
    # With the names of the whole command line: click keeps the option for help, and with it what the reference shows.
    context: click.Context = run.test.make_context("test", ["--engine", "host"], help_option_names=["-h", "--help"])
    return foreign.open_foreign(context, url, address, named)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("alone")
def test_an_address_adds_its_stage_to_those_of_a_url() -> None:
    assert [spec.name for spec in opened(address="127.0.0.1:1").stages] == ["grpc"]
    both = opened("http://127.0.0.1:2/v1", "127.0.0.1:1")
    assert [spec.name for spec in both.stages] == ["integration", "streaming", "security", "grpc"]
    assert (both.context.url, both.context.grpc) == ("http://127.0.0.1:2", "127.0.0.1:1")
    assert [spec.name for spec in opened("http://127.0.0.1:2").stages] == ["integration", "streaming", "security"]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("", "127.0.0.1"), "invalid address of a gRPC service"),
        (("", "127.0.0.1:1", "streaming"), "needs a URL, but --grpc gives only a gRPC service"),
        (("http://127.0.0.1:2", "", "grpc"), "needs the address of a gRPC service"),
    ],
)
def test_what_does_not_fit_is_refused(given: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        opened(*given)


@pytest.mark.parametrize("option", [("--model", "m"), ("--budget", "5"), ("--deep",)])
def test_options_without_an_effect_are_refused(option: tuple[str, ...]) -> None:
    done = CliRunner().invoke(root, ["test", "--grpc", "127.0.0.1:1", *option], catch_exceptions=True)
    assert isinstance(done.exception, UsageError)
    assert f"{option[0]} has no effect here" in done.exception.message


@pytest.mark.usefixtures("alone")
def test_a_missing_extra_is_a_usage_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "missing", lambda: "the package grpc is not installed")
    with pytest.raises(UsageError, match="packages that are not installed") as caught:
        opened(address="127.0.0.1:1")
    assert caught.value.exit_code == 2
    assert "vllm-ci[grpc]" in caught.value.remedy


@pytest.mark.usefixtures("alone")
def test_another_engine_than_the_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "choose", lambda _: ("dagger", "because"))
    with pytest.raises(UsageError, match="cannot be tested on the engine dagger"):
        opened(address="127.0.0.1:1")


def test_the_stage_of_a_pipeline_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    (tmp_path / "vllm-ci.yaml").write_text("version: 1\n", encoding="utf-8")
    from vllm_ci.config import load

    with pytest.raises(UsageError, match="needs the address of a gRPC service"):
        load.load(tmp_path / "vllm-ci.yaml").project("vllm-ci.yaml", ("grpc",))
