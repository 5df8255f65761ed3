"""Commands that need git, registry and ledger, run in the tool's container.

:func:`ran` is the only place that runs a command for a project.
"""

import posixpath
from dataclasses import replace
from email.utils import parseaddr
from urllib.parse import urlsplit

import dagger

from vllm_ci.config.channels import ReleaseConfig
from vllm_ci.config.load import Loaded
from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.domain.program import Outcome, Program
from vllm_ci.engines.dagger import DaggerEngine
from vllm_ci.engines.dagger_caller import ModuleCaller
from vllm_ci.engines.dagger_tool import Tool
from vllm_ci.evidence import keys
from vllm_ci.module import session, work
from vllm_ci.module.credentials import Credentials
from vllm_ci.module.endings import end, for_the_user
from vllm_ci.module.release import Release
from vllm_ci.module.session import ending_well, opened, watched
from vllm_ci.module.verb import PRINTED, Verb, reports
from vllm_ci.module.wanted import Wanted, check_names, name_of, plaintexts
from vllm_ci.pipeline import steps
from vllm_ci.registry.reference import parse

_SIGNING_KEY = "VLLM_CI_SIGNING_KEY"
_LOCAL = "a container can read only the checkout, and its files are deleted when it ends"
# Commands that read only the ledger.
_LEDGER_ONLY = ("history", "model list", "model history")


async def done(credentials: Credentials, verb: Verb) -> str:
    """Run a command for a project that releases to servers, and return its output; arguments are checked first."""
    return await text_of(await ran(credentials, verb))


async def ran(credentials: Credentials, verb: Verb) -> Outcome:
    """Run a command for a project, and return its outcome; if it fails, end the call with its output and exit code."""
    async with ending_well():
        loaded = await session.configuration(credentials)
        tool = await _equipped(credentials, verb, loaded)
    async with opened(credentials, Wanted(retrains=verb.nests, gpus=verb.gpus), tool) as found:
        if verb.builds:
            with watched() as emit:
                await steps.build(found.engine, found.project, found.source, emit)
        found.engine.session = ""  # these commands are never answered from the cache
        found.engine.nests = verb.nests
        words = [f"--config={{in.source}}/{verb.config or credentials.config}"]
        words += [f"--key=env:{_SIGNING_KEY}"] if credentials.key is not None and verb.signs else []
        words += ["--json"] if credentials.as_json else []
        return await _finished(found.engine, await verb.program(credentials.source, *words))


async def done_anywhere(credentials: Credentials, verb: Verb) -> str:
    """Run a command that needs no project (an image and public keys are given), and return its output."""
    async with ending_well():
        tool = await equipped_for_image(credentials, await session.tool_of(credentials), verb.about[0])
        async with DaggerEngine(caller=ModuleCaller(package=tool.package), tool=tool) as engine:
            return await printed(engine, await verb.program(None, *(["--json"] if credentials.as_json else [])))


async def publish(
    release: Release,
    channel: str,
    commit: str,
    reason: str,
    *,
    run: bool,
    report: dagger.Directory | None,
    scan: dagger.File | None,
) -> str:
    """Publish with a given report, with a new one, or with the evidence in the registry."""
    verb = Verb(
        name="publish",
        about=(commit,),
        options={"channel": channel, "reason": reason, "dry_run": release.dry_run},
        report=report,
        osv=release.osv,
        scan=scan,
        channels=(channel,) if channel else (),
        builds=(run or report is not None) and commit == "HEAD",
        signs=True,
    )
    if not run:
        return await done(release, verb)
    async with ending_well():
        if report is not None or commit != "HEAD":
            raise UsageError(
                "--run cannot be combined with --report or --commit",
                why="it creates a report of the checkout",
                remedy="remove --run, or --report and --commit",
            )
        await _equipped(release, verb, await session.configuration(release))
    made = await work.ran(release)
    return await done(release, replace(verb, report=made.report))


async def _equipped(credentials: Credentials, verb: Verb, loaded: Loaded) -> Tool:
    """The tool with the credentials of the release, after checking them and the configuration for the command.

    Raises:
        UsageError: Something is missing.
    """
    section = loaded.config.release
    if unknown := [each for each in verb.channels if each not in section.channels]:
        known = ", ".join(section.channels)
        raise ConfigError(f"{credentials.config} has no channel {unknown[0]}", remedy=f"choose from {known}")
    _require_servers(verb, section)
    if verb.report is not None:
        await reports(verb.report)
    found = await equipped(credentials, await session.tool_of(credentials), section)
    tool = replace(
        found,
        extras=verb.extras,
        variables={**found.variables, **verb.variables},
        secrets={**found.secrets, **verb.secrets},
    )
    if credentials.key is not None and verb.signs:
        await _check_key(credentials, section)
    return tool


async def _check_key(credentials: Credentials, section: ReleaseConfig) -> None:
    """Check that the key belongs to a trusted signer: otherwise its signature would be refused after the build."""
    pem, *passphrase = await plaintexts([credentials.key, credentials.passphrase])
    environment = {_SIGNING_KEY: pem, keys.PASSPHRASE_ENV: passphrase[0] if passphrase else ""}
    public = keys.load(f"env:{_SIGNING_KEY}", environment=environment).public
    folder = posixpath.dirname(credentials.config)
    for name, each in section.signers.items():
        path = posixpath.normpath(posixpath.join(folder, each)) if isinstance(each, str) else ""
        if path and await credentials.source.exists(path):
            content = await credentials.source.file(path).contents()
            if keys.PublicKey(name=name, pem=content.encode()).hint == public.hint:
                return
    raise UsageError(
        "the key passed with --key belongs to no configured signer",
        why="releases are verified with the public keys in release.signers, so this signature would be refused",
        remedy="write its public key to a file in the repository (ci.pub) and add it to the configuration:\n"
        f"release: {{signers: {{ci: ci.pub}}}}\n{public.pem.decode().strip()}",
    )


async def equipped(credentials: Credentials, tool: Tool, section: ReleaseConfig) -> Tool:
    """The tool with the credentials of a release.

    Raises:
        UsageError: They are incomplete, or a secret has no value.
    """
    if (credentials.ssh_agent is None) != (credentials.known_hosts is None):
        raise UsageError(
            "--ssh-agent and --known-hosts must be used together",
            why="the keys of the agent are used only with known hosts",
            remedy="--ssh-agent $SSH_AUTH_SOCK --known-hosts ~/.ssh/known_hosts",
        )
    secrets = await _secrets(credentials)
    services = {
        section.repository.partition("/")[0]: credentials.registry_service,
        urlsplit(section.ledger.repository).hostname or "": credentials.ledger_service,
    }
    if services.get("") is not None:
        raise UsageError(
            "the host of a service is unknown",
            why="the configuration has no registry, or no URL for the ledger",
            remedy="set release.repository and release.ledger.repository",
        )
    return replace(
        tool,
        secrets=secrets,
        services={each: value for each, value in services.items() if value is not None},
        variables={each: value for each, value in _variables(credentials).items() if value},
        ssh_agent=credentials.ssh_agent,
        known_hosts=credentials.known_hosts,
    )


async def equipped_for_image(credentials: Credentials, tool: Tool, image: str) -> Tool:
    """The tool with the credentials for the registry of an image; no configuration names another one.

    Raises:
        ImageNameError: It is not the name of an image.
        UsageError: The credentials are incomplete, or a secret has no value.
    """
    found = await equipped(credentials, tool, ReleaseConfig(repository=image))
    return replace(found, variables={**found.variables, "VLLM_CI_REGISTRY_HOST": parse(image).host})


async def _secrets(credentials: Credentials) -> dict[str, dagger.Secret]:
    named = {await name_of(each): each for each in credentials.secrets or ()}
    check_names(named)
    given = {
        "VLLM_CI_REGISTRY_USERNAME": credentials.username,
        "VLLM_CI_REGISTRY_PASSWORD": credentials.password,
        "VLLM_CI_GIT_USERNAME": credentials.ledger_username,
        "VLLM_CI_GIT_PASSWORD": credentials.ledger_password,
        _SIGNING_KEY: credentials.key,
        keys.PASSPHRASE_ENV: credentials.passphrase,
        **named,
    }
    await plaintexts(given.values())
    return {each: value for each, value in given.items() if value is not None}


def _variables(credentials: Credentials) -> dict[str, str]:
    name, address = parseaddr(credentials.by)
    if credentials.by and not (name and address):
        raise UsageError(
            f"--by {credentials.by} is not a name with an email address",
            remedy='use the format of git: --by "Anna <anna@example.com>"',
        )
    return {
        "GIT_COMMITTER_NAME": name,
        "GIT_COMMITTER_EMAIL": address,
        "VLLM_CI_REF": credentials.ref,
        "VLLM_CI_PULL_REQUEST": credentials.pull_request,
        "VLLM_CI_RUN_URL": credentials.run_url,
    }


def _require_servers(verb: Verb, release: ReleaseConfig) -> None:
    """Check that ledger and registry are servers: directories in a container would be lost."""
    if verb.name == "verify" or (verb.name == "policy" and len(verb.about) == len(("explain", "CHANNEL"))):
        return
    if not _is_server(release.ledger.repository):
        raise UsageError(
            "release.ledger.repository is not a server",
            why=_LOCAL,
            remedy=f"set it to a remote (origin) or a URL, or use the command line: vllm-ci {verb.name}",
        )
    if verb.name not in _LEDGER_ONLY and (not release.repository or release.repository.startswith("oci:")):
        raise UsageError(
            "release.repository is not a registry",
            why=_LOCAL,
            remedy=f"set it to a registry (registry.example.com/team/name), or use the command line: vllm-ci {verb.name}",
        )


def _is_server(ledger: str) -> bool:
    """Whether a ledger's repository is a URL, git's short form of one (``git@host:path``), or the name of a remote."""
    scheme, separator, _ = ledger.partition("://")
    if separator:
        return scheme != "file"
    return ":" in ledger.partition("/")[0] or (bool(ledger) and "/" not in ledger and not ledger.startswith("."))


async def printed(engine: DaggerEngine, program: Program) -> str:
    """Run a program that writes the file ``printed``, and return it; if it fails, end the call with output and exit code."""
    return await text_of(await _finished(engine, program))


async def text_of(outcome: Outcome) -> str:
    """What a command printed."""
    return for_the_user((await outcome.output.read(PRINTED)).decode())


async def _finished(engine: DaggerEngine, program: Program) -> Outcome:
    outcome = await engine.run(program)
    if not outcome:
        await end((await outcome.output.read(PRINTED)).decode() + outcome.log, outcome.exit_code)
    return outcome
