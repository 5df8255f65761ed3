"""Errors of registries, by cause: login, permission, absence."""

from __future__ import annotations

from vllm_ci.domain.errors import RegistryError, UsageError


class ImageNameError(UsageError):
    """An image name that does not follow the distribution specification's grammar."""


class RefusedError(RegistryError):
    """An answer with an unexpected status.

    Args:
        message: See :class:`~vllm_ci.domain.errors.VllmCiError`, as are the other two.
        status: HTTP status.
        code: The distribution specification's error code, empty when the answer had none.
        retry_after: The answer's ``Retry-After`` header.
        passing: No answer came, for a reason that may pass: a connection that broke, not a certificate that is refused.
    """

    def __init__(
        self,
        message: str,
        *,
        why: str = "",
        remedy: str = "",
        status: int = 0,
        code: str = "",
        retry_after: str = "",
        passing: bool = False,
    ) -> None:
        super().__init__(message, why=why, remedy=remedy)
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.passing = passing


class UnauthorizedError(RefusedError):
    """401: no login, or wrong credentials."""


class ForbiddenError(RefusedError):
    """403: the account has no permission."""


class NotFoundError(RefusedError):
    """404: it is not in the repository."""


class NameUnknownError(NotFoundError):
    """404 with NAME_UNKNOWN: the repository does not exist."""


class UnsupportedError(RefusedError):
    """The registry does not offer this part of the protocol."""


class UnreachableError(RefusedError):
    """No usable answer came, after all retries."""


class DigestError(RegistryError):
    """Bytes that do not match the requested digest."""
