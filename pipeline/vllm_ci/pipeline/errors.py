"""The error of a pipeline that uses this package in a way that cannot work: it names the user's line."""

from __future__ import annotations

import inspect
from contextlib import AbstractAsyncContextManager

from vllm_ci.domain.errors import ErroredError
from vllm_ci.stages.user_code import caller


class PipelineError(ErroredError):
    """A pipeline called something in a wrong way; the message begins with ``path:line`` of the call."""


def misuse(message: str, *, why: str = "", remedy: str = "", at: str | None = None) -> PipelineError:
    """The error of a call.

    Args:
        message: What is wrong with it.
        why: Why that cannot work.
        remedy: What to write in its place.
        at: ``path:line``; by default the user's line that is calling us right now.
    """
    where = caller() if at is None else at
    return PipelineError(f"{where}: {message}" if where else message, why=why, remedy=remedy)


def no_image(given: object, text: str, at: str) -> PipelineError:
    """The error of a call that got something else than an image or a server."""
    if inspect.iscoroutine(given):
        given.close()
        return misuse(f"{text} got a coroutine", why="an `await` is missing", remedy="image = await ci.build()", at=at)
    if isinstance(given, AbstractAsyncContextManager):
        remedy = "async with ci.serve(image) as server: ..."
        return misuse(f"{text} got a server that was not started", why="`async with` starts it", remedy=remedy, at=at)
    said = "nothing (None)" if given is None else f"{type(given).__name__} {given!r:.60}"
    return misuse(f"{text} got {said} in place of an image or a server", remedy="image = await ci.build()", at=at)
