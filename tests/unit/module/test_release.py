"""What a release function asks the command line for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagger
import pytest
from click.testing import CliRunner
from dagger import dag

from vllm_ci.cli import COMMANDS, root
from vllm_ci.config.channels import ReleaseConfig
from vllm_ci.config.load import load
from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.domain.program import fill
from vllm_ci.engines.dagger_tool import Tool
from vllm_ci.evidence import keys
from vllm_ci.module import session, verbs
from vllm_ci.module.release import Release
from vllm_ci.module.verb import Verb
from vllm_ci.module.verbs import _require_servers

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Held:
    """Files that an engine would hold."""

    def __init__(self, *names: str, **contents: str) -> None:
        self._names, self._contents = names, contents

    async def glob(self, pattern: str) -> list[str]:
        assert pattern == "**/report.json"
        return list(self._names)

    async def name(self) -> str:
        return self._names[0]

    async def exists(self, path: str, **_: Any) -> bool:
        return path in self._contents

    def file(self, path: str) -> Any:
        return Held(path, content=self._contents[path])

    async def contents(self) -> str:
        return self._contents["content"]


class Given:
    """A secret of the environment."""

    def __init__(self, name: str, value: str) -> None:
        self._name, self._value = name, value

    async def uri(self) -> str:
        return f"env://{self._name}"

    async def plaintext(self) -> str:
        return self._value


def held(*names: str, **contents: str) -> Any:
    return Held(*names, **contents)


def given(name: str, value: str = "x") -> Any:
    return Given(name, value)


def a_release(**more: Any) -> Any:
    make: Any = Release
    return make(**{"source": dag.directory(), **more})


def section(folder: Path, text: str = "") -> ReleaseConfig:
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
    verb = Verb(name="rollback", about=("production",), options={"to": "", "reason": "", "dry_run": False})
    assert await words(verb, "--config=x.yaml") == ["rollback", "production", "--config=x.yaml"]


async def test_options_are_those_of_the_command_line() -> None:
    """A value may start with a dash, as reasons in a list do."""
    verb = Verb(name="promote", options={"from": "staging", "reason": "- it is well", "dry_run": True}, osv=dag.directory())
    assert await words(verb) == ["promote", "--from=staging", "--reason=- it is well", "--dry-run", "--osv=/in/osv"]


async def test_every_report_of_a_folder_counts() -> None:
    verb = Verb(name="publish", about=("HEAD",), options={}, report=held("b/report.json", "a/report.json"))
    said = await words(verb)
    assert said == ["publish", "HEAD", "--report=/in/report/a/report.json", "--report=/in/report/b/report.json"]
    with pytest.raises(UsageError, match=r"no report\.json"):
        await words(Verb(name="publish", about=("HEAD",), options={}, report=held()))


async def test_a_public_key_keeps_its_name_for_the_policy() -> None:
    handed: Any = (held("ci.pub"), held("anna.pub"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vllm_ci.module.verb.holding", list)
        said = await words(Verb(name="verify", about=("r.example.com/name",), options={"layers": True}, keys=handed))
    assert said == ["verify", "r.example.com/name", "--layers", "--key=/in/keys/ci.pub", "--key=/in/keys/anna.pub"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("publish", ["--channel", "--reason", "--dry-run", "--json", "--report", "--osv", "--scan", "--key", "--config"]),
        ("promote", ["--from", "--channel", "--reason", "--dry-run", "--json", "--osv", "--key", "--config"]),
        ("rollback", ["--to", "--reason", "--dry-run", "--json", "--osv", "--key", "--config"]),
        ("history", ["--json", "--config"]),
        ("verify", ["--commit", "--channel", "--layers", "--json", "--key", "--config"]),
        ("prune", ["--keep", "--yes", "--json", "--config"]),
        ("policy explain", ["--json", "--config"]),
    ],
)
async def test_the_command_line_knows_all_that_functions_say(name: str, options: list[str]) -> None:
    assert name.partition(" ")[0] in COMMANDS
    shown = CliRunner().invoke(root, [*name.split(), "--help"]).output
    assert not [option for option in options if option not in shown]


async def test_credentials_reach_the_command_line_as_secrets_and_variables(tmp_path: Path) -> None:
    release = a_release(
        password=given("REGISTRY"),
        ledger_password=given("LEDGER"),
        key=given("KEY"),
        passphrase=given("PASSPHRASE"),
        secrets=[given("COMPANY_KEY")],
        by="Anna B. <anna@example.com>",
        ref="v1",
        pull_request="7",
    )
    tool = await verbs.equipped(release, Tool(package=dag.directory()), section(tmp_path))
    assert set(tool.secrets) == {
        *("VLLM_CI_REGISTRY_PASSWORD", "VLLM_CI_GIT_PASSWORD", "VLLM_CI_SIGNING_KEY", "VLLM_CI_KEY_PASSPHRASE", "COMPANY_KEY"),
    }
    assert tool.variables == {
        "GIT_COMMITTER_NAME": "Anna B.",
        "GIT_COMMITTER_EMAIL": "anna@example.com",
        "VLLM_CI_REF": "v1",
        "VLLM_CI_PULL_REQUEST": "7",
    }
    assert not tool.services


async def test_the_login_for_an_image_without_a_project_is_for_its_registry() -> None:
    release = a_release(username=given("NAME"), password=given("REGISTRY"))
    image = f"registry.example.com:5000/team/chat@sha256:{'0' * 64}"
    tool = await verbs.equipped_for_image(release, Tool(package=dag.directory()), image)
    assert tool.variables == {"VLLM_CI_REGISTRY_HOST": "registry.example.com:5000"}
    assert set(tool.secrets) == {"VLLM_CI_REGISTRY_USERNAME", "VLLM_CI_REGISTRY_PASSWORD"}


async def test_services_stand_for_the_hosts_that_the_configuration_names(tmp_path: Path) -> None:
    text = "  repository: registry:5000/team/chat\n  ledger: {repository: 'http://git:8080/releases.git'}\n"
    one: dagger.Service = dag.container().as_service()
    plain = Tool(package=dag.directory())
    tool = await verbs.equipped(a_release(registry_service=one, ledger_service=one), plain, section(tmp_path, text))
    assert set(tool.services) == {"registry:5000", "git"}
    with pytest.raises(UsageError, match="the host of a service is unknown"):
        await verbs.equipped(a_release(ledger_service=one), plain, section(tmp_path))


@pytest.mark.parametrize(
    ("release", "message"),
    [
        (a_release(by="anna"), "--by anna is not a name with an email address"),
        (a_release(known_hosts=dag.directory().file("known_hosts")), "--ssh-agent and --known-hosts"),
    ],
)
async def test_credentials_that_do_not_fit_are_refused(tmp_path: Path, release: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        await verbs.equipped(release, Tool(package=dag.directory()), section(tmp_path))


SERVERS = "release:\n  repository: r.example.com/name\n  ledger: {repository: origin}\n"


def checkout_of(text: str, **files: str) -> Any:
    return held(**{".git": "", "serving/vllm-ci.yaml": f"version: 1\n{SERVERS}{text}", **files})


async def equip(release: Any, verb: Verb) -> Tool:
    return await verbs._equipped(release, verb, await session.configuration(release))


async def test_a_channel_that_is_not_there_is_refused_before_anything_is_built() -> None:
    release = a_release(source=checkout_of("  channels: {staging: {}}\n"), config="serving/vllm-ci.yaml")
    with pytest.raises(ConfigError, match=r"no channel production[\s\S]*choose from staging"):
        await equip(release, Verb(name="publish", channels=("production",)))
    await equip(release, Verb(name="publish", channels=("staging",)))


async def test_a_key_that_no_signer_has_is_refused_before_anything_is_built_with_what_to_add(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    public, another = keys.generate(mine, passphrase="sesame"), keys.generate(other)
    release = a_release(
        source=checkout_of("  signers: {ci: ../ci.pub}\n", **{"ci.pub": another.pem.decode()}),
        config="serving/vllm-ci.yaml",
        key=given("KEY", (mine / "release.key").read_text()),
        passphrase=given("PASSPHRASE", "sesame"),
    )
    with pytest.raises(UsageError, match="belongs to no configured signer") as caught:
        await equip(release, Verb(name="publish", signs=True))
    assert public.pem.decode().strip() in caught.value.remedy
    await equip(release, Verb(name="history"))
    release.source = checkout_of("  signers: {ci: ../ci.pub}\n", **{"ci.pub": public.pem.decode()})
    await equip(release, Verb(name="publish", signs=True))
    release.passphrase = None
    with pytest.raises(ConfigError, match="encrypted"):
        await equip(release, Verb(name="publish", signs=True))


@pytest.mark.parametrize(
    ("call", "signs"),
    [
        (lambda release: release.publish(), True),
        (lambda release: release.promote(from_="staging", channel="production"), True),
        (lambda release: release.rollback(channel="production"), True),
        (lambda release: release.history(), False),
        (lambda release: release.prune(), False),
        (lambda release: release.policy(channel="production"), False),
        (lambda release: release.verify(image="production"), False),
    ],
)
async def test_a_key_is_for_the_commands_that_sign(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[Any], Any], *, signs: bool
) -> None:
    asked: list[Verb] = []

    async def ran(_: Any, verb: Verb) -> str:
        asked.append(verb)
        return ""

    monkeypatch.setattr(verbs, "done", ran)
    await call(a_release())
    assert [each.signs for each in asked] == [signs]


MODELS = {"model add", "model show", "model diff", "model pull", "model verify", "model alias", "model rollback", "retrain"}
MOVES = {"publish", "promote", "rollback", *MODELS}
LEDGER_ONLY = {"history", "model list", "model history"}


@pytest.mark.parametrize(
    ("repository", "ledger", "refused"),
    [
        ("", "", {*MOVES, *LEDGER_ONLY}),
        ("oci:./images", "origin", MOVES),
        ("r.example.com/name", "../ledger.git", {*MOVES, *LEDGER_ONLY}),
        ("r.example.com/name", "deploy/ledger.git", {*MOVES, *LEDGER_ONLY}),
        ("r.example.com/name", "/srv/ledger.git", {*MOVES, *LEDGER_ONLY}),
        ("r.example.com/name", "file:///srv/ledger.git", {*MOVES, *LEDGER_ONLY}),
        ("r.example.com/name", "origin", set()),
        ("r.example.com/name", "git@git.example.com:team/name", set()),
        ("r.example.com/name", "https://git.example.com/team/name", set()),
    ],
)
async def test_what_would_stay_in_a_container_is_refused(
    tmp_path: Path, repository: str, ledger: str, refused: set[str]
) -> None:
    config = section(tmp_path, f"  repository: {repository!r}\n  ledger: {{repository: {ledger!r}}}\n")
    found = set()
    for name in (*MOVES, *LEDGER_ONLY, "verify"):
        try:
            _require_servers(Verb(name=name, options={}), config)
        except UsageError:
            found.add(name)
    assert found == refused
