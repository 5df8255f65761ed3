"""What a call wants of a project, and the secrets that it needs and was given."""

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
    """What a call wants of a project.

    Attributes:
        stages: Which stages; none means those that the configuration enables.
        serves: It runs the project's pipeline, whose server is started where its stages need one.
        holds: It starts the server, whatever the stages need.
        foreign: It tests a server that was given.
        deep: No stage has a budget.
        shared: Other functions of the session may want the same server at the same time.
    """

    stages: tuple[str, ...] = ()
    serves: bool = False
    holds: bool = False
    foreign: bool = False
    deep: bool = False
    shared: bool = False


async def given(settings: Settings, project: Project, wanted: Wanted) -> dict[str, tuple[dagger.Secret, str]]:
    """Secrets by the name of the variable that would hold them, each with its value.

    Raises:
        UsageError: One has no value or a name that programs need, or the server wants one that was not given.
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
            f"no secret {missing[0]} was given",
            why=f"{settings.config} names it",
            remedy=f"pass it: --secrets env://{missing[0]}",
        )
    return {name: (secret, await _plaintext(secret)) for name, secret in named.items()}


def serves(project: Project, wanted: Wanted) -> bool:
    """Whether the call starts the server of the project."""
    return wanted.holds or (wanted.serves and any(needs_server(spec) for spec in project.stages))


def _needed(project: Project, wanted: Wanted) -> list[str]:
    """Secrets that the server and the stages of the user's own are started with."""
    key = [project.server.api_key_env] if project.server.api_key_env else []
    server = [*project.server.secrets, *key] if serves(project, wanted) else key if wanted.foreign else []
    runs = wanted.serves or wanted.foreign
    return server + [name for spec in project.stages if runs and spec.own is not None for name in spec.own.secrets]


async def _generated_key(*, shared: bool) -> str:
    """A key that nobody knows; the same for all functions that share a server."""
    return hashlib.sha256(f"key {await identity()}".encode()).hexdigest()[:32] if shared else secrets.token_urlsafe(24)


async def plaintexts(given: Iterable[dagger.Secret | None]) -> list[str]:
    """Values of secrets.

    Raises:
        UsageError: One has none; the message names it.
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
    """The name of a variable, from ``env://NAME``, ``file://.../NAME`` and the like, or as a module set it."""
    return (await secret.uri()).rpartition("/")[2] or await secret.name()


def check_names(names: Iterable[str]) -> None:
    """Refuse secrets under names that programs need.

    Raises:
        UsageError: There is one.
    """
    for name in names:
        if name and (reason := refusal_of_secret(name, ours=True)):
            raise UsageError(f"the secret {name} cannot be used", why=reason, remedy="rename its variable or file")


async def identity() -> str:
    """Identity of the session, the same for all functions that are called in it, and known to nobody outside."""
    return hashlib.sha256((await dag.current_workspace().client_id()).encode()).hexdigest()
