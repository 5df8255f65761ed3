"""Why a model is not taken or not used."""

from __future__ import annotations

from vllm_ci.domain.errors import FailedError


class UnsafeModelError(FailedError):
    """A file that is not safe to load, or not what its name says."""


class TamperedModelError(FailedError):
    """A file of a model has other bytes than its manifest says."""
