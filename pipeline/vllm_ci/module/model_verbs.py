"""The model commands: what can be checked before a container starts, and the command that runs in it."""

from collections.abc import Mapping

import dagger
from dagger import dag

from vllm_ci.domain.errors import UsageError
from vllm_ci.engines.dagger import DaggerDirectory
from vllm_ci.models import hub as hubs
from vllm_ci.models import naming
from vllm_ci.module.credentials import Credentials, Options
from vllm_ci.module.session import ending_well
from vllm_ci.module.verb import Verb, holding
from vllm_ci.module.verbs import done, ran

# A checkpoint of hundreds of gigabytes is read, and sent or fetched.
_TIMEOUT_S = 24 * 3600.0


async def add(
    credentials: Credentials,
    name: str,
    path: dagger.Directory | None,
    gguf: dagger.File | None,
    hub: str,
    options: Options,
) -> str:
    """Add a version of a model."""
    async with ending_well():
        naming.check_name(name)
        naming.check_one_source(path, gguf, hub)
        if hub:
            hubs.parse(hub)
    about, more, inputs = await _given(path, gguf, hub)
    verb = Verb(
        name="model add",
        about=(name, *about),
        options={**options, **more},
        inputs=inputs,
        signs=True,
        extras=bool(hub),
        timeout_s=_TIMEOUT_S,
    )
    return await done(credentials, verb)


async def _given(
    path: dagger.Directory | None, gguf: dagger.File | None, hub: str
) -> tuple[tuple[str, ...], Options, Mapping[str, dagger.Directory]]:
    """What is added as positional arguments, options and directories; its name is part of the provenance."""
    if path is not None:
        # A directory that was uploaded by itself is called / or . by the engine.
        name = (await path.name()).strip("/")
        name = "checkpoint" if name in ("", ".") else name
        return (f"{{in.model}}/{name}",), {}, {"model": dag.directory().with_directory(name, path)}
    if gguf is not None:
        name = await gguf.name()
        return (), {"gguf": f"{{in.model}}/{name}"}, {"model": holding({name: gguf})}
    return (), {"hub": hub}, {}


async def about(credentials: Credentials, name: str, *refs: str) -> str:
    """Run a command about versions of models that reads the repository."""
    async with ending_well():
        for each in refs:
            naming.parse(each)
    return await done(credentials, Verb(name=name, about=refs, timeout_s=_TIMEOUT_S))


async def listed(credentials: Credentials, name: str, model: str, alias: str = "") -> str:
    """Run a command that reads only the ledger; without a model for all of them."""
    async with ending_well():
        if model:
            naming.check_name(model)
        if alias and not model:
            raise UsageError("--alias needs --name", why="each model has aliases of its own", remedy="pass --name as well")
        if alias:
            naming.check_alias(alias)
    return await done(credentials, Verb(name=name, about=tuple(each for each in (model, alias) if each)))


async def pulled(credentials: Credentials, ref: str) -> dagger.Directory:
    """A directory with the files of a version (``files``) and its signature (``model.sig``)."""
    async with ending_well():
        naming.parse(ref)
    options = {"to": "{out}/files", "signature": "{out}/model.sig"}
    outcome = await ran(credentials, Verb(name="model pull", about=(ref,), options=options, timeout_s=_TIMEOUT_S))
    assert isinstance(outcome.output, DaggerDirectory)  # noqa: S101 - of this engine
    return outcome.output.handle


async def alias(credentials: Credentials, name: str, assignment: str, reason: str, *, dry_run: bool) -> str:
    """Point an alias to a version."""
    async with ending_well():
        naming.assignment(name, assignment)
    options: Options = {"reason": reason, "dry_run": dry_run}
    verb = Verb(name="model alias", about=(name, assignment), options=options, timeout_s=_TIMEOUT_S)
    return await done(credentials, verb)


async def rollback(credentials: Credentials, name: str, alias_name: str, to: str, reason: str, *, dry_run: bool) -> str:
    """Point an alias back to an earlier version."""
    async with ending_well():
        naming.check_name(name)
        naming.check_alias(alias_name)
        naming.earlier(to)
    options: Options = {"to": to, "reason": reason, "dry_run": dry_run}
    return await done(credentials, Verb(name="model rollback", about=(name, alias_name), options=options))
