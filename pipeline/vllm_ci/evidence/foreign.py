"""Translates errors of key services' and Sigstore's libraries, by type, into errors of ours.

The libraries are extras that may not be installed, so their types are known by name: of the class, or of one it derives from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from vllm_ci.domain.errors import ConfigError, ErroredError, VllmCiError

_MISSING = ("securesystemslib.exceptions.UnsupportedLibraryError", "builtins.ImportError")
_NO_CREDENTIALS = (
    "botocore.exceptions.NoCredentialsError",
    "botocore.exceptions.PartialCredentialsError",
    "botocore.exceptions.CredentialRetrievalError",
    "botocore.exceptions.TokenRetrievalError",
    "botocore.exceptions.SSOError",
    "botocore.exceptions.NoRegionError",
    "botocore.exceptions.ProfileNotFound",
    "google.auth.exceptions.GoogleAuthError",
    "google.api_core.exceptions.Unauthenticated",
    "azure.core.exceptions.ClientAuthenticationError",
    "hvac.exceptions.Unauthorized",
    "id.AmbientCredentialError",
    "sigstore.oidc.IdentityError",
    "sigstore.oidc.ExpiredIdentity",
)
_DENIED = ("google.api_core.exceptions.Forbidden", "hvac.exceptions.Forbidden")
_NOT_THERE = (
    "google.api_core.exceptions.NotFound",
    "azure.core.exceptions.ResourceNotFoundError",
    "hvac.exceptions.InvalidPath",
)
_UNREACHABLE = (
    "builtins.OSError",  # connections and time limits; those of requests and urllib3 derive from it, or are named below
    "urllib3.exceptions.HTTPError",
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "google.api_core.exceptions.ServerError",
    "google.api_core.exceptions.RetryError",
    "google.api_core.exceptions.TooManyRequests",
    "azure.core.exceptions.ServiceRequestError",
    "azure.core.exceptions.ServiceResponseError",
    "hvac.exceptions.VaultDown",
    "hvac.exceptions.RateLimitExceeded",
    "hvac.exceptions.InternalServerError",
    "hvac.exceptions.BadGateway",
    "sigstore.errors.NetworkError",
    "sigstore.errors.TUFError",
)
# AWS errors share types and are distinguished by code (botocore, ClientError.response).
_CODES = {
    "AccessDeniedException": _DENIED,
    "AccessDenied": _DENIED,
    "NotFoundException": _NOT_THERE,
    "UnrecognizedClientException": _NO_CREDENTIALS,
    "InvalidClientTokenId": _NO_CREDENTIALS,
    "ExpiredTokenException": _NO_CREDENTIALS,
    "InvalidSignatureException": _NO_CREDENTIALS,
    "ThrottlingException": _UNREACHABLE,
    "KMSInternalException": _UNREACHABLE,
    "DependencyTimeoutException": _UNREACHABLE,
}


@contextlib.contextmanager
def translated(what: str, *, missing: str) -> Iterator[None]:
    """Translate what a library raises into an error of ours.

    Args:
        what: What is used there, for messages.
        missing: What to do when its package is not installed.

    Raises:
        ConfigError: It is not installed, has no credentials, may not be used, or is not there.
        ErroredError: It cannot be reached, or failed in another way.
    """
    try:
        yield
    except VllmCiError:
        raise
    except Exception as error:
        raise _ours(what, error, missing) from error


def _ours(what: str, error: Exception, missing: str) -> VllmCiError:
    kind, said = _kind(error), f"{type(error).__name__}: {error}".strip().removesuffix(":")
    if kind is _MISSING:
        return ConfigError(f"{what} cannot be used: a package is missing", why=said, remedy=missing)
    if kind is _NO_CREDENTIALS:
        return ConfigError(f"{what} has no valid credentials for this run", why=said, remedy="set or renew its credentials")
    if kind is _DENIED:
        return ConfigError(f"{what} refused", why=said, remedy="give this account the right to sign with that key")
    if kind is _NOT_THERE:
        return ConfigError(f"{what} has no such key", why=said, remedy="check release.key, or what --key names")
    if kind is _UNREACHABLE:
        return ErroredError(f"{what} cannot be reached", why=said, remedy="check the network and its state, then try again")
    return ErroredError(f"{what} failed", why=said, remedy="check release.key and its public half, release.public_key")


def _kind(error: BaseException) -> tuple[str, ...]:
    """Which of the kinds above an error is, or what caused it is; empty for none."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        if found := _by_answer(current):
            return found
        for kind in (_MISSING, _NO_CREDENTIALS, _DENIED, _NOT_THERE, _UNREACHABLE):
            if _names(current) & set(kind):
                return kind
        current = current.__cause__
    return ()


def _by_answer(error: BaseException) -> tuple[str, ...]:
    """By the code of an answer of AWS, or the HTTP status of one of Azure."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
    status = getattr(error, "status_code", None)
    by_status = {401: _NO_CREDENTIALS, 403: _DENIED, 404: _NOT_THERE, 429: _UNREACHABLE}
    if isinstance(status, int) and status >= 500:
        return _UNREACHABLE
    return _CODES.get(code, by_status.get(status, ()) if isinstance(status, int) else ())


def _names(error: BaseException) -> set[str]:
    return {f"{each.__module__}.{each.__qualname__}" for each in type(error).__mro__}
