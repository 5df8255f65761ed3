"""The error for incorrect use of the pipeline API: it names the user's line."""

from __future__ import annotations

import inspect
from contextlib import AbstractAsyncContextManager

from vllm_ci.domain.errors import ErroredError
from vllm_ci.stages.user_code import caller


class PipelineError(ErroredError):
    """A pipeline used the API incorrectly; the message begins with ``path:line`` of the call."""


def misuse(message: str, *, why: str = "", remedy: str = "", at: str | None = None) -> PipelineError:
    """Create the error for an incorrect call.

    Args:
        message: What is wrong with it.
        why: Why it cannot work.
        remedy: What to write instead.
        at: ``path:line``; by default the line of user code that made the current call.
    """
    where = caller() if at is None else at
    return PipelineError(f"{where}: {message}" if where else message, why=why, remedy=remedy)


def no_image(given: object, text: str, at: str) -> PipelineError:
    """Create the error for a call that got something other than an image or a server."""
    if inspect.iscoroutine(given):
        given.close()
        return misuse(f"{text} got a coroutine", why="`await` is missing", remedy="image = await ci.build()", at=at)
    if isinstance(given, AbstractAsyncContextManager):
        remedy = "async with ci.serve(image) as server: ..."
        return misuse(f"{text} got a server that was not started", why="`async with` starts it", remedy=remedy, at=at)
    found = "nothing (None)" if given is None else f"{type(given).__name__} {given!r:.60}"
    return misuse(f"{text} got {found} instead of an image or a server", remedy="image = await ci.build()", at=at)
