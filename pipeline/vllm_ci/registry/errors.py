"""What a registry can refuse, told apart: who you are, what you may, and what there is."""

from __future__ import annotations

from vllm_ci.domain.errors import RegistryError, UsageError


class ImageNameError(UsageError):
    """An image name that does not follow the distribution specification's grammar."""


class RefusedError(RegistryError):
    """An answer that is not the one asked for.

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
    """401: the registry does not know who asks, or does not believe the password."""


class ForbiddenError(RefusedError):
    """403: the registry knows who asks, and this account may not."""


class NotFoundError(RefusedError):
    """404: there is no such thing in the repository."""


class NameUnknownError(NotFoundError):
    """404 with NAME_UNKNOWN: the repository itself is not there."""


class UnsupportedError(RefusedError):
    """The registry does not offer this part of the protocol."""


class UnreachableError(RefusedError):
    """No usable answer came, after all retries."""


class DigestError(RegistryError):
    """Bytes that do not have the digest they were asked by."""
