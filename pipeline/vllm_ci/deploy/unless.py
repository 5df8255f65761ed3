"""Doing something that another process may ask to stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

_Result = TypeVar("_Result")
POLL_S = 0.1


class Stopped(Exception):
    """It was asked to stop."""


async def unless(asked: Callable[[], bool], work: Callable[[], Awaitable[_Result]]) -> _Result:
    """The result of ``work()``, which is cancelled as soon as ``asked()`` says so.

    Raises:
        Stopped: It was cancelled.
    """
    found: list[_Result] = []
    errors: list[Exception] = []
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(_cancel, asked, scope)
            try:
                found.append(await work())
            except Exception as error:  # noqa: BLE001 - raised below, without an exception group
                errors.append(error)
        group.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if not found:
        raise Stopped
    return found[0]


async def _cancel(asked: Callable[[], bool], scope: anyio.CancelScope) -> None:
    while not asked():
        await anyio.sleep(POLL_S)
    scope.cancel()
