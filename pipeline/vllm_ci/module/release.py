"""The release verbs as functions: those of the command line, run in the tool's container."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parseaddr
from urllib.parse import urlsplit

import dagger
from dagger import dag

from vllm_ci.config.channels import ReleaseConfig
from vllm_ci.config.load import Loaded
from vllm_ci.domain.errors import UsageError, VllmCiError
from vllm_ci.domain.program import Program
from vllm_ci.engines.dagger import DaggerDirectory, DaggerEngine
from vllm_ci.engines.dagger_caller import Function
from vllm_ci.engines.dagger_tool import Tool
from vllm_ci.module import session
from vllm_ci.module.session import Asked, Call, watched
from vllm_ci.pipeline import steps

_TIMEOUT_S = 2 * 3600.0
_SIGNING_KEY = "VLLM_CI_SIGNING_KEY"
_PRINTED = "printed"
_LOCAL = "a container sees no folder of this machine but the checkout, and what it writes is gone when it ends"

Options = Mapping[str, str | bool]


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a release is reached and signed with.

    Attributes:
        username: For the registry.
        password: For the registry.
        registry_service: The registry, where no name server knows it.
        ledger_username: For the ledger's repository.
        ledger_password: Likewise, or a token.
        ledger_service: The server of that repository, where no name server knows it.
        ssh_agent: Whose keys open that repository.
        known_hosts: Host keys to trust with it.
        key: Signs, in place of the configuration's.
        passphrase: Of the key.
        secrets: Further ones, by the names of variables: those that the configuration names.
        by: Who releases, ``NAME <EMAIL>``.
        ref: Branch or tag that is released, where the checkout has none.
        pull_request: Number of the pull request that the CI run is for.
        run_url: Page of the CI run that releases.
    """

    username: dagger.Secret | None = None
    password: dagger.Secret | None = None
    registry_service: dagger.Service | None = None
    ledger_username: dagger.Secret | None = None
    ledger_password: dagger.Secret | None = None
    ledger_service: dagger.Service | None = None
    ssh_agent: dagger.Socket | None = None
    known_hosts: dagger.File | None = None
    key: dagger.Secret | None = None
    passphrase: dagger.Secret | None = None
    secrets: Sequence[dagger.Secret] = ()
    by: str = ""
    ref: str = ""
    pull_request: str = ""
    run_url: str = ""

    async def given_to(self, tool: Tool, release: ReleaseConfig) -> Tool:
        """The tool with these means.

        Raises:
            UsageError: They do not fit each other.
        """
        if (self.ssh_agent is None) != (self.known_hosts is None):
            raise UsageError(
                "an SSH agent and known hosts go together",
                why="its keys are used with hosts that are known, and with no others",
                remedy="--ssh-agent $SSH_AUTH_SOCK --known-hosts ~/.ssh/known_hosts",
            )
        name, address = parseaddr(self.by)
        if self.by and not (name and address):
            raise UsageError(f"{self.by} names nobody", remedy='write it as git does: --by "Anna <anna@example.com>"')
        secrets = {
            "VLLM_CI_REGISTRY_USERNAME": self.username,
            "VLLM_CI_REGISTRY_PASSWORD": self.password,
            "VLLM_CI_GIT_USERNAME": self.ledger_username,
            "VLLM_CI_GIT_PASSWORD": self.ledger_password,
            _SIGNING_KEY: self.key,
            "VLLM_CI_KEY_PASSPHRASE": self.passphrase,
            **{await session.name_of(each): each for each in self.secrets},
        }
        services = {
            release.repository.partition("/")[0]: self.registry_service,
            urlsplit(release.ledger.repository).hostname or "": self.ledger_service,
        }
        if "" in services and services[""] is not None:
            raise UsageError(
                "which host a service stands for is not known",
                why="the configuration names no registry, or no URL of the ledger",
                remedy="write them under release.repository and release.ledger.repository",
            )
        return replace(
            tool,
            secrets={each: value for each, value in secrets.items() if value is not None},
            services={each: value for each, value in services.items() if value is not None},
            variables={each: value for each, value in self._variables(name, address).items() if value},
            ssh_agent=self.ssh_agent,
            known_hosts=self.known_hosts,
        )

    def _variables(self, name: str, address: str) -> dict[str, str]:
        return {
            "GIT_COMMITTER_NAME": name,
            "GIT_COMMITTER_EMAIL": address,
            "VLLM_CI_REF": self.ref,
            "VLLM_CI_PULL_REQUEST": self.pull_request,
            "VLLM_CI_RUN_URL": self.run_url,
        }


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One of the command line's.

    Attributes:
        name: Its name.
        about: What it is about: a commit, a channel, an image.
        options: By name; those that are empty or false are left out.
        report: Directory with the reports of runs.
        osv: OSV data.
        scan: JSON of a scanner.
        keys: Public keys.
        builds: Whether it needs the image of the source's commit in the builder's store.
    """

    name: str
    about: str = ""
    options: Options
    report: dagger.Directory | None = None
    osv: dagger.Directory | None = None
    scan: dagger.File | None = None
    keys: Sequence[dagger.File] = ()
    builds: bool = False

    async def program(self, source: dagger.Directory | None, *words: str) -> Program:
        """As it runs in the tool's container; what it prints is its file ``printed``.

        Args:
            source: The checkout, for ``{in.source}``.
            words: Further ones of its command line.

        Raises:
            UsageError: The directory of reports holds none.
        """
        said = [self.name, *([self.about] if self.about else []), *words]
        for name, value in self.options.items():
            flag = f"--{name.replace('_', '-')}"
            said += [flag] if value is True else [f"{flag}={value}"] if value else []
        if self.report is not None:
            said += [f"--report={{in.report}}/{path}" for path in await _reports(self.report)]
        if self.osv is not None:
            said += ["--osv={in.osv}"]
        if self.scan is not None:
            said += ["--scan={in.scan}/scan.json"]
        names = [await key.name() for key in self.keys]
        said += [f"--key={{in.keys}}/{name}" for name in names]
        inputs = {
            "source": source,
            "report": self.report,
            "osv": self.osv,
            "scan": _holding({"scan.json": self.scan}) if self.scan is not None else None,
            "keys": _holding(dict(zip(names, self.keys, strict=True))),
        }
        return Program(
            name=self.name,
            argv=("sh", "-c", 'exec python -m vllm_ci "$@" > "$0"', f"{{out}}/{_PRINTED}", *said),
            inputs={name: DaggerDirectory(each) for name, each in inputs.items() if each is not None},
            timeout_s=_TIMEOUT_S,
        )


async def done(verb: Verb, asked: Asked, tool: Tool, means: Means) -> str:
    """What the verb printed, for a project whose releases go to servers."""

    async def equipped(loaded: Loaded) -> Tool:
        _require_servers(verb, loaded.config.release)
        return await means.given_to(tool, loaded.config.release)

    async with Call(asked=asked, tool=tool, equipped=equipped) as work:
        if verb.builds:
            with watched() as emit:
                await steps.build(work.engine, work.project, work.source, emit)
        key = (f"--key=env:{_SIGNING_KEY}",) if means.key is not None else ()
        program = await verb.program(asked.source, f"--config={{in.source}}/{asked.config}", *key)
        return await _printed(work.engine, program, tool.python_image)


async def done_anywhere(verb: Verb, tool: Tool, means: Means) -> str:
    """What a verb printed that needs no project: it is about an image, whose keys are given."""
    try:
        equipped = await means.given_to(tool, ReleaseConfig(repository=verb.about))
        async with DaggerEngine(caller=Function(package=tool.package), tool=equipped) as engine:
            return await _printed(engine, await verb.program(None), tool.python_image)
    except VllmCiError as error:
        await session.end(tool.python_image, f"vllm-ci: {error}\n", error.exit_code)


def _require_servers(verb: Verb, release: ReleaseConfig) -> None:
    """Refuse what would be written into a folder of a container, or read from one that is not there."""
    if verb.name == "verify":
        return
    if not _is_server(release.ledger.repository):
        raise UsageError(
            "release.ledger.repository names no server",
            why=_LOCAL,
            remedy=f"name a remote of the repository (origin) or a URL, or stay on this machine: vllm-ci {verb.name}",
        )
    if verb.name != "history" and (not release.repository or release.repository.startswith("oci:")):
        raise UsageError(
            "release.repository names no registry",
            why=_LOCAL,
            remedy=f"name one (registry.example.com/team/name), or stay on this machine: vllm-ci {verb.name}",
        )


def _is_server(ledger: str) -> bool:
    """Whether a ledger's repository is a URL, git's short form of one (``git@host:path``), or the name of a remote."""
    scheme, separator, _ = ledger.partition("://")
    if separator:
        return scheme != "file"
    return ":" in ledger.partition("/")[0] or (bool(ledger) and "/" not in ledger and not ledger.startswith("."))


async def _printed(engine: DaggerEngine, program: Program, image: str) -> str:
    """Standard output; a program that fails ends the call with all it said and with its exit code."""
    outcome = await engine.run(program)
    printed = (await outcome.output.read(_PRINTED)).decode()
    if not outcome:
        await session.end(image, printed + outcome.log, outcome.exit_code)
    return printed


async def _reports(report: dagger.Directory) -> list[str]:
    """Paths of the reports in a directory: that of one run, or a folder of several."""
    found = sorted(await report.glob("**/report.json"))
    if not found:
        raise UsageError("the report holds no report.json", remedy="pass what run gives: --report ./report")
    return found


def _holding(files: Mapping[str, dagger.File]) -> dagger.Directory:
    made = dag.directory()
    for name, file in files.items():
        made = made.with_file(name, file)
    return made
