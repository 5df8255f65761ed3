"""Requirements of a call, and the secrets that it needs and was given."""

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

import dagger
from dagger import dag

from vllm_ci.config.load import GENERATED_KEY
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.program import refusal_of_secret
from vllm_ci.domain.project import Project
from vllm_ci.module.arguments import Settings
from vllm_ci.stages import needs_server


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Requirements of a call.

    Attributes:
        stages: Stages to run; by default the enabled ones.
        serves: Runs the project's pipeline, which starts a server if stages need one.
        holds: Always starts the server.
        retrains: Starts servers for models of its own, not for the configured one.
        gpus: Devices that programs need, beside those of the server.
        foreign: Tests a given server.
        deep: Run without time budgets.
        shared: Other functions of the session may use the same server at the same time.
    """

    stages: tuple[str, ...] = ()
    serves: bool = False
    holds: bool = False
    retrains: bool = False
    gpus: str = "none"
    foreign: bool = False
    deep: bool = False
    shared: bool = False


async def given(settings: Settings, project: Project, wanted: Wanted) -> dict[str, tuple[dagger.Secret, str]]:
    """Secrets by variable name, each with its value.

    Raises:
        UsageError: A secret has no value or a reserved name, or a required one was not given.
    """
    key = project.server.api_key_env
    named = {await name_of(secret): secret for secret in settings.secrets or ()}
    if settings.api_key is not None:
        named[key] = settings.api_key
    elif key == GENERATED_KEY:
        named[key] = dag.set_secret(GENERATED_KEY, await _generated_key(shared=wanted.shared))
    check_names(named)
    needed = [name.rpartition("=")[2] for name in _needed(project, wanted)]
    if missing := [name for name in needed if name not in named]:
        raise UsageError(
            f"the secret {missing[0]} is missing",
            why=f"{settings.config} requires it",
            remedy=f"pass it: --secrets env://{missing[0]}",
        )
    return {name: (secret, await _plaintext(secret)) for name, secret in named.items()}


def serves(project: Project, wanted: Wanted) -> bool:
    """Whether the call starts the project's server."""
    return wanted.holds or wanted.retrains or (wanted.serves and any(needs_server(spec) for spec in project.stages))


def _needed(project: Project, wanted: Wanted) -> list[str]:
    """Names of the secrets that the server and the user's stages need."""
    key = [project.server.api_key_env] if project.server.api_key_env else []
    server = [*project.server.secrets, *key] if serves(project, wanted) else key if wanted.foreign else []
    runs = wanted.serves or wanted.foreign
    return server + [name for spec in project.stages if runs and spec.own is not None for name in spec.own.secrets]


async def _generated_key(*, shared: bool) -> str:
    """A random key; the same for all functions that share a server."""
    return hashlib.sha256(f"key {await identity()}".encode()).hexdigest()[:32] if shared else secrets.token_urlsafe(24)


async def plaintexts(given: Iterable[dagger.Secret | None]) -> list[str]:
    """Read the values of secrets.

    Raises:
        UsageError: A secret has no value; the message names it.
    """
    return [await _plaintext(each) for each in given if each is not None]


async def _plaintext(secret: dagger.Secret) -> str:
    try:
        return await secret.plaintext()
    except dagger.DaggerError as error:
        uri = await secret.uri()
        raise UsageError(
            f"the secret {uri or 'that was given'} has no value",
            why=str(error).splitlines()[0],
            remedy=f"export {await name_of(secret)}=... before the call" if uri.startswith("env://") else "check its address",
        ) from error


async def name_of(secret: dagger.Secret) -> str:
    """The variable name of a secret: from ``env://NAME``, ``file://.../NAME`` etc., or as set by a module."""
    return (await secret.uri()).rpartition("/")[2] or await secret.name()


def check_names(names: Iterable[str]) -> None:
    """Refuse secrets with names that are reserved for programs.

    Raises:
        UsageError: A name is reserved.
    """
    for name in names:
        if name and (reason := refusal_of_secret(name, ours=True)):
            raise UsageError(f"the secret {name} cannot be used", why=reason, remedy="rename its variable or file")


async def identity() -> str:
    """Identity of the session: the same for all functions called in it, and secret outside of it."""
    return hashlib.sha256((await dag.current_workspace().client_id()).encode()).hexdigest()
