"""The error of a pipeline that uses this package in a way that cannot work: it names the user's line."""

from __future__ import annotations

from vllm_ci.domain.errors import ErroredError
from vllm_ci.stages.user_code import caller


class PipelineError(ErroredError):
    """A pipeline called something in a wrong way; the message begins with ``path:line`` of the call."""


def misuse(message: str, *, why: str = "", remedy: str = "", at: str = "") -> PipelineError:
    """The error of a call.

    Args:
        message: What is wrong with it.
        why: Why that cannot work.
        remedy: What to write in its place.
        at: ``path:line``; by default the user's line that is calling us right now.
    """
    where = at or caller()
    return PipelineError(f"{where}: {message}" if where else message, why=why, remedy=remedy)
