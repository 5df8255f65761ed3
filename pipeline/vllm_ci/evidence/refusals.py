"""Why a piece of evidence does not count. Each has its own class, so that a policy and a test can tell them apart."""

from __future__ import annotations

from vllm_ci.domain.errors import FailedError


class Refusal(FailedError):
    """Evidence that must not be relied on."""


class MalformedError(Refusal):
    """Not a bundle, envelope or statement as the specifications have them."""


class DuplicateKeysError(MalformedError):
    """JSON that says two things under one name: readers could disagree about what was signed."""


class OtherKeyError(Refusal):
    """Signed, but not by a trusted identity or key."""


class AlteredPayloadError(Refusal):
    """It names a trusted key, and the signature does not match the payload."""


class AlteredImageError(Refusal):
    """The image's bytes do not match its digest."""


class OtherImageError(Refusal):
    """A statement about another digest."""


class OtherCommitError(Refusal):
    """A statement about another commit."""


class OtherRepositoryError(Refusal):
    """A statement made for another repository, replayed here."""


class UnknownVersionError(Refusal):
    """A predicate of an unsupported version."""


class FutureError(Refusal):
    """A statement dated after now: its age cannot be judged."""
