"""The release commands, run in the tool's container because they need git.

:func:`done` is the only place that runs a command for a project.
"""

import posixpath
from dataclasses import replace
from email.utils import parseaddr
from urllib.parse import urlsplit

import dagger

from vllm_ci.config.channels import ReleaseConfig
from vllm_ci.config.load import Loaded
from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.domain.program import Program
from vllm_ci.engines.dagger import DaggerEngine
from vllm_ci.engines.dagger_caller import ModuleCaller
from vllm_ci.engines.dagger_tool import Tool
from vllm_ci.evidence import keys
from vllm_ci.module import session, work
from vllm_ci.module.endings import end, for_the_user
from vllm_ci.module.release import Release
from vllm_ci.module.session import ending_well, opened, watched
from vllm_ci.module.verb import PRINTED, Verb, reports
from vllm_ci.module.wanted import Wanted, check_names, name_of, plaintexts
from vllm_ci.pipeline import steps
from vllm_ci.registry.reference import parse

_SIGNING_KEY = "VLLM_CI_SIGNING_KEY"
_LOCAL = "a container can read only the checkout, and its files are deleted when it ends"
# Commands that write a signed record.
_SIGNING = ("publish", "promote", "rollback")


async def done(release: Release, verb: Verb) -> str:
    """Run a command for a project that releases to servers, and return its output; arguments are checked first."""
    async with ending_well():
        loaded = await session.configuration(release)
        tool = await _equipped(release, verb, loaded)
    async with opened(release, Wanted(), tool) as found:
        if verb.builds:
            with watched() as emit:
                await steps.build(found.engine, found.project, found.source, emit)
        found.engine.session = ""  # release commands are never answered from the cache
        words = [f"--config={{in.source}}/{release.config}"]
        words += [f"--key=env:{_SIGNING_KEY}"] if release.key is not None and verb.name in _SIGNING else []
        words += ["--json"] if release.as_json else []
        return await printed(found.engine, await verb.program(release.source, *words))


async def done_anywhere(release: Release, verb: Verb) -> str:
    """Run a command that needs no project (an image and public keys are given), and return its output."""
    async with ending_well():
        tool = await equipped_for_image(release, await session.tool_of(release), verb.about[0])
        async with DaggerEngine(caller=ModuleCaller(package=tool.package), tool=tool) as engine:
            return await printed(engine, await verb.program(None, *(["--json"] if release.as_json else [])))


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


async def _equipped(release: Release, verb: Verb, loaded: Loaded) -> Tool:
    """The tool with the credentials of the release, after checking them and the configuration for the command.

    Raises:
        UsageError: Something is missing.
    """
    section = loaded.config.release
    if unknown := [each for each in verb.channels if each not in section.channels]:
        raise ConfigError(f"{release.config} has no channel {unknown[0]}", remedy=f"choose from {', '.join(section.channels)}")
    _require_servers(verb, section)
    if verb.report is not None:
        await reports(verb.report)
    tool = await equipped(release, await session.tool_of(release), section)
    if release.key is not None and verb.name in _SIGNING:
        await _check_key(release, section)
    return tool


async def _check_key(release: Release, section: ReleaseConfig) -> None:
    """Check that the key belongs to a trusted signer: otherwise its signature would be refused after the build."""
    pem, *passphrase = await plaintexts([release.key, release.passphrase])
    environment = {_SIGNING_KEY: pem, keys.PASSPHRASE_ENV: passphrase[0] if passphrase else ""}
    public = keys.load(f"env:{_SIGNING_KEY}", environment=environment).public
    folder = posixpath.dirname(release.config)
    for name, each in section.signers.items():
        path = posixpath.normpath(posixpath.join(folder, each)) if isinstance(each, str) else ""
        if path and await release.source.exists(path):
            content = await release.source.file(path).contents()
            if keys.PublicKey(name=name, pem=content.encode()).hint == public.hint:
                return
    raise UsageError(
        "the key passed with --key belongs to no configured signer",
        why="releases are verified with the public keys in release.signers, so this signature would be refused",
        remedy="write its public key to a file in the repository (ci.pub) and add it to the configuration:\n"
        f"release: {{signers: {{ci: ci.pub}}}}\n{public.pem.decode().strip()}",
    )


async def equipped(release: Release, tool: Tool, section: ReleaseConfig) -> Tool:
    """The tool with the credentials of a release.

    Raises:
        UsageError: They are incomplete, or a secret has no value.
    """
    if (release.ssh_agent is None) != (release.known_hosts is None):
        raise UsageError(
            "--ssh-agent and --known-hosts must be used together",
            why="the keys of the agent are used only with known hosts",
            remedy="--ssh-agent $SSH_AUTH_SOCK --known-hosts ~/.ssh/known_hosts",
        )
    secrets = await _secrets(release)
    services = {
        section.repository.partition("/")[0]: release.registry_service,
        urlsplit(section.ledger.repository).hostname or "": release.ledger_service,
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
        variables={each: value for each, value in _variables(release).items() if value},
        ssh_agent=release.ssh_agent,
        known_hosts=release.known_hosts,
    )


async def equipped_for_image(release: Release, tool: Tool, image: str) -> Tool:
    """The tool with the credentials for the registry of an image; no configuration names another one.

    Raises:
        ImageNameError: It is not the name of an image.
        UsageError: The credentials are incomplete, or a secret has no value.
    """
    found = await equipped(release, tool, ReleaseConfig(repository=image))
    return replace(found, variables={**found.variables, "VLLM_CI_REGISTRY_HOST": parse(image).host})


async def _secrets(release: Release) -> dict[str, dagger.Secret]:
    named = {await name_of(each): each for each in release.secrets or ()}
    check_names(named)
    given = {
        "VLLM_CI_REGISTRY_USERNAME": release.username,
        "VLLM_CI_REGISTRY_PASSWORD": release.password,
        "VLLM_CI_GIT_USERNAME": release.ledger_username,
        "VLLM_CI_GIT_PASSWORD": release.ledger_password,
        _SIGNING_KEY: release.key,
        keys.PASSPHRASE_ENV: release.passphrase,
        **named,
    }
    await plaintexts(given.values())
    return {each: value for each, value in given.items() if value is not None}


def _variables(release: Release) -> dict[str, str]:
    name, address = parseaddr(release.by)
    if release.by and not (name and address):
        raise UsageError(
            f"--by {release.by} is not a name with an email address",
            remedy='use the format of git: --by "Anna <anna@example.com>"',
        )
    return {
        "GIT_COMMITTER_NAME": name,
        "GIT_COMMITTER_EMAIL": address,
        "VLLM_CI_REF": release.ref,
        "VLLM_CI_PULL_REQUEST": release.pull_request,
        "VLLM_CI_RUN_URL": release.run_url,
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
    if verb.name != "history" and (not release.repository or release.repository.startswith("oci:")):
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
    outcome = await engine.run(program)
    text = (await outcome.output.read(PRINTED)).decode()
    if not outcome:
        await end(text + outcome.log, outcome.exit_code)
    return for_the_user(text)
