"""Notices that the server is gone: the case that ended it fails, once, and no later case is run against nothing.

After each case that did not pass, one small valid request on a new connection says whether the server still works.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

import grpc

from vllm_ci.suites.ends import DIED, GONE, HANGS
from vllm_ci.suites.grpc.client import Engine
from vllm_ci.suites.verdicts import NotRun

TRIES = 3
BETWEEN_S = 1.0
ANSWER_S = 15.0


class GoneError(NotRun):
    """The case was not run, because the server is gone."""

    cause: ClassVar[Mapping[str, str]] = {"id": GONE}


class Life:
    """Whether the server of a run still works.

    Args:
        return_s: How long a server that died may take to come back by itself.
    """

    def __init__(self, return_s: float) -> None:
        self._return_s = return_s
        self._gone = ""

    def require(self) -> None:
        """Do not run a case against a server that is gone.

        Raises:
            GoneError: It is gone.
        """
        if self._gone:
            raise GoneError(f"not run: {self._gone}")

    def look(self, engine: Engine, case: str) -> dict[str, Any] | None:
        """What the report of a case that did not pass says, if the server does not work any more; otherwise ``None``."""
        how, cause = _trouble(engine)
        if not how:
            return None
        said = f"the server {'died' if cause == DIED else 'does not answer any more'}: {how}"
        until = time.monotonic() + self._return_s
        while (back := not _asked(engine)[0]) is False and time.monotonic() < until:
            time.sleep(BETWEEN_S)
        if not back:
            self._gone = f"{said} (seen first after {case})"
        finding = {"id": f"{cause}:{case.rpartition('::')[2]}", "severity": "critical", "message": said}
        return {"cause": {"id": cause, "title": said, "severity": "critical"}, "findings": [finding]}


def _trouble(engine: Engine) -> tuple[str, str]:
    """What is wrong with a valid request, and the id of the cause; empty if one of several succeeds."""
    how, late = "", False
    for attempt in range(TRIES):
        if attempt:
            time.sleep(BETWEEN_S)
        how, late = _asked(engine)
        if not how:
            return "", ""
    return how, HANGS if late else DIED


def _asked(engine: Engine) -> tuple[str, bool]:
    """What is wrong with one valid request on a new connection, empty if it is served; and whether it was only not in time."""
    bound_s = ANSWER_S * engine.slowness
    with engine.another() as fresh:
        answer = fresh.generate(ids=fresh.prompt(2), sampling={"max_tokens": 1}, timeout_s=bound_s)
    late = answer.code is grpc.StatusCode.DEADLINE_EXCEEDED
    broken = late or answer.code is grpc.StatusCode.UNAVAILABLE
    return (f"a valid request ends with {answer.said}" if broken else ""), late
