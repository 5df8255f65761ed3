"""What a registry's refusal means, in words: the host, its own code and message, and what to do next."""

from __future__ import annotations

from urllib.parse import urlsplit

from vllm_ci.registry.access import RegistryEndpoint
from vllm_ci.registry.answer import RegistryAnswer
from vllm_ci.registry.challenges import parse_challenges
from vllm_ci.registry.credentials import Credentials, unused_variables
from vllm_ci.registry.errors import (
    ForbiddenError,
    NameUnknownError,
    NotFoundError,
    RefusedError,
    UnauthorizedError,
    UnreachableError,
    UnsupportedError,
)
from vllm_ci.registry.retry import STATUSES

_Texts = tuple[str, str, str]
_KINDS = {401: UnauthorizedError, 403: ForbiddenError, 405: UnsupportedError, 501: UnsupportedError}
_HIDDEN = "some registries answer like this for a repository that does not exist or is hidden from this account"


def refusal(
    answer: RegistryAnswer, method: str, endpoint: RegistryEndpoint, login: Credentials | None, scope: str, tries: int
) -> RefusedError:
    """The error that an answer stands for.

    Args:
        answer: The registry's, or that of a host it redirected to.
        method: Of the request.
        endpoint: What was asked.
        login: Who asked.
        scope: What the request needed.
        tries: How often it was made.
    """
    kind = _kind(answer)
    told = f"{method} {urlsplit(answer.url).path}: {answer.host} answered {answer.told}"
    if kind is UnauthorizedError:
        message, why, remedy = _unauthorised(answer, told, endpoint, login)
    else:
        message, why, remedy = _texts(kind, told, endpoint, login, scope, tries)
    after = answer.headers.get("Retry-After", "")
    return kind(message, why=why, remedy=remedy, status=answer.status, code=answer.code, retry_after=after)


def given_up(error: UnreachableError, tries: int) -> UnreachableError:
    """The same error after the last try."""
    why = f"{tries} tries failed; {error.why}" if tries > 1 else error.why
    return UnreachableError(error.message, why=why, remedy=error.remedy, status=error.status, code=error.code)


def _kind(answer: RegistryAnswer) -> type[RefusedError]:
    if answer.status == 404:
        return NameUnknownError if answer.code == "NAME_UNKNOWN" else NotFoundError
    return UnreachableError if answer.status in STATUSES else _KINDS.get(answer.status, RefusedError)


def _unauthorised(answer: RegistryAnswer, told: str, endpoint: RegistryEndpoint, login: Credentials | None) -> _Texts:
    host, path = endpoint.host, endpoint.path
    offered = [each.scheme for each in parse_challenges(answer.headers.get_list("WWW-Authenticate"))]
    if offered and not {"basic", "bearer"} & set(offered):
        return (
            f"{host} offers no supported way to log in",
            f"{told}; it offers {', '.join(offered)}, and only Basic and Bearer are supported",
            "let the registry offer Basic or Bearer as well",
        )
    if login is None:
        unused = unused_variables(host)
        where = f"; {unused}" if unused else "; docker's and podman's configuration have no credentials for it"
        set_host = (
            f"docker login {host}, or set VLLM_CI_REGISTRY_USERNAME, VLLM_CI_REGISTRY_PASSWORD and VLLM_CI_REGISTRY_HOST={host}"
        )
        return f"{host} requires a login for {path}", told + where, set_host
    source = login.source or "the options"
    return (
        f"{host} does not accept the login for {path}",
        f"{told}; the name or password from {source} is wrong or has expired, or {_HIDDEN}",
        f"docker login {host}, or set VLLM_CI_REGISTRY_USERNAME and VLLM_CI_REGISTRY_PASSWORD",
    )


def _texts(
    kind: type[RefusedError], told: str, endpoint: RegistryEndpoint, login: Credentials | None, scope: str, tries: int
) -> _Texts:
    host, path = endpoint.host, endpoint.path
    account = f"account {login.username or 'of the token'}" if login else "without a login"
    hidden = (
        "check the digest or tag" if login else f"check the name, or docker login {host}: private repositories may be hidden"
    )
    known: dict[type[RefusedError], _Texts] = {
        ForbiddenError: (
            f"{host} forbids this on {path}, {account}",
            f"{told}; the account lacks the permission {scope}, or {_HIDDEN}",
            "ask the registry's owner for it, create the repository, or use another one",
        ),
        NameUnknownError: (
            f"{host} knows no repository {path}",
            told,
            "check the name; it may have to be created first",
        ),
        NotFoundError: (f"{host}/{path} does not have that", told, hidden),
        UnsupportedError: (f"{host} does not support this on {path}", told, "use a registry that supports it"),
        UnreachableError: (f"{host} keeps failing", f"{told}, after {max(tries, 1)} tries", "try again later"),
        RefusedError: (f"{host} refused a request on {path}", told, "see the registry's log"),
    }
    return known[kind]
