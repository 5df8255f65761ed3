"""What a release function asks the command line for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagger
import pytest
from click.testing import CliRunner
from dagger import dag

from vllm_ci.cli import COMMANDS, root
from vllm_ci.config.channels import ReleaseConfig
from vllm_ci.config.load import load
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.program import fill
from vllm_ci.engines.dagger_tool import Tool
from vllm_ci.module.release import Means, Verb, _require_servers

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Held:
    """Files that an engine would hold."""

    def __init__(self, *names: str) -> None:
        self._names = names

    async def glob(self, pattern: str) -> list[str]:
        assert pattern == "**/report.json"
        return list(self._names)

    async def name(self) -> str:
        return self._names[0]


def held(*names: str) -> Any:
    return Held(*names)


def release(folder: Path, text: str = "") -> ReleaseConfig:
    file = folder / "vllm-ci.yaml"
    file.write_text(f"version: 1\nrelease:\n{text}" if text else "version: 1\n")
    return load(file).config.release


async def words(verb: Verb, *more: str) -> list[str]:
    """The command line, its inputs mounted."""
    program = await verb.program(dag.directory(), *more)
    values = {"out": "/out", **{f"in.{name}": f"/in/{name}" for name in program.inputs}}
    filled = [fill(word, values) for word in program.argv]
    assert filled[:2] == ["sh", "-c"]
    assert filled[3] == "/out/printed"
    assert not program.cache_key, "never answered from memory"
    return filled[4:]


async def test_what_was_not_asked_for_is_not_said() -> None:
    verb = Verb(name="rollback", about="production", options={"to": "", "reason": "", "dry_run": False, "json": False})
    assert await words(verb, "--config=x.yaml") == ["rollback", "production", "--config=x.yaml"]


async def test_options_are_those_of_the_command_line() -> None:
    """A value may start with a dash, as reasons in a list do."""
    verb = Verb(name="promote", options={"from": "staging", "reason": "- it is well", "dry_run": True}, osv=dag.directory())
    assert await words(verb) == ["promote", "--from=staging", "--reason=- it is well", "--dry-run", "--osv=/in/osv"]


async def test_every_report_of_a_folder_counts() -> None:
    verb = Verb(name="publish", about="HEAD", options={}, report=held("b/report.json", "a/report.json"))
    said = await words(verb)
    assert said == ["publish", "HEAD", "--report=/in/report/a/report.json", "--report=/in/report/b/report.json"]
    with pytest.raises(UsageError, match=r"no report\.json"):
        await words(Verb(name="publish", about="HEAD", options={}, report=held()))


async def test_a_public_key_keeps_its_name_for_the_policy() -> None:
    handed: Any = (held("ci.pub"), held("anna.pub"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vllm_ci.module.release._holding", list)
        said = await words(Verb(name="verify", about="r.example.com/name", options={"layers": True}, keys=handed))
    assert said == ["verify", "r.example.com/name", "--layers", "--key=/in/keys/ci.pub", "--key=/in/keys/anna.pub"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("publish", ["--channel", "--reason", "--dry-run", "--json", "--report", "--osv", "--scan", "--key", "--config"]),
        ("promote", ["--from", "--channel", "--reason", "--dry-run", "--json", "--osv", "--key", "--config"]),
        ("rollback", ["--to", "--reason", "--dry-run", "--json", "--osv", "--key", "--config"]),
        ("history", ["--json", "--config"]),
        ("verify", ["--commit", "--channel", "--layers", "--json", "--key", "--config"]),
    ],
)
async def test_the_command_line_knows_all_that_functions_say(name: str, options: list[str]) -> None:
    assert name in COMMANDS
    shown = CliRunner().invoke(root, [name, "--help"]).output
    assert not [option for option in options if option not in shown]


async def test_means_reach_the_command_line_as_secrets_and_variables(tmp_path: Path) -> None:
    secret = dag.set_secret("one", "1")
    means = Means(
        password=secret,
        ledger_password=secret,
        key=secret,
        passphrase=secret,
        by="Anna B. <anna@example.com>",
        ref="v1",
        pull_request="7",
    )
    tool = await means.given_to(Tool(package=dag.directory()), release(tmp_path))
    assert set(tool.secrets) == {
        *("VLLM_CI_REGISTRY_PASSWORD", "VLLM_CI_GIT_PASSWORD", "VLLM_CI_SIGNING_KEY", "VLLM_CI_KEY_PASSPHRASE"),
    }
    assert tool.variables == {
        "GIT_COMMITTER_NAME": "Anna B.",
        "GIT_COMMITTER_EMAIL": "anna@example.com",
        "VLLM_CI_REF": "v1",
        "VLLM_CI_PULL_REQUEST": "7",
    }
    assert not tool.services


async def test_services_stand_for_the_hosts_that_the_configuration_names(tmp_path: Path) -> None:
    text = "  repository: registry:5000/team/chat\n  ledger: {repository: 'http://git:8080/releases.git'}\n"
    one: dagger.Service = dag.container().as_service()
    tool = await Means(registry_service=one, ledger_service=one).given_to(
        Tool(package=dag.directory()), release(tmp_path, text)
    )
    assert set(tool.services) == {"registry:5000", "git"}
    with pytest.raises(UsageError, match="which host"):
        await Means(ledger_service=one).given_to(Tool(package=dag.directory()), release(tmp_path))


@pytest.mark.parametrize(
    ("means", "message"),
    [
        (Means(by="anna"), "names nobody"),
        (Means(known_hosts=dag.directory().file("known_hosts")), "SSH agent"),
    ],
)
async def test_means_that_do_not_fit_are_refused(tmp_path: Path, means: Means, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        await means.given_to(Tool(package=dag.directory()), release(tmp_path))


MOVES = {"publish", "promote", "rollback"}


@pytest.mark.parametrize(
    ("repository", "ledger", "refused"),
    [
        ("", "", {*MOVES, "history"}),
        ("oci:./images", "origin", MOVES),
        ("r.example.com/name", "../ledger.git", {*MOVES, "history"}),
        ("r.example.com/name", "deploy/ledger.git", {*MOVES, "history"}),
        ("r.example.com/name", "/srv/ledger.git", {*MOVES, "history"}),
        ("r.example.com/name", "file:///srv/ledger.git", {*MOVES, "history"}),
        ("r.example.com/name", "origin", set()),
        ("r.example.com/name", "git@git.example.com:team/name", set()),
        ("r.example.com/name", "https://git.example.com/team/name", set()),
    ],
)
async def test_what_would_stay_in_a_container_is_refused(
    tmp_path: Path, repository: str, ledger: str, refused: set[str]
) -> None:
    config = release(tmp_path, f"  repository: {repository!r}\n  ledger: {{repository: {ledger!r}}}\n")
    found = set()
    for name in ("publish", "promote", "rollback", "history", "verify"):
        try:
            _require_servers(Verb(name=name, options={}), config)
        except UsageError:
            found.add(name)
    assert found == refused
