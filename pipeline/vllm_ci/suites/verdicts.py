"""Results of a case other than passed and failed. Standard library only, because it also runs inside images."""

from __future__ import annotations

from typing import NoReturn


class Inconclusive(Exception):
    """The measurement is not decisive; the message is the reason."""


class Errored(Exception):
    """The suite itself failed (its client broke, its data are missing), so nothing is known about the server."""


class Fault(AssertionError):
    """The server did something wrong. Unlike a plain assertion, it fails the case also where a fixture finds it."""


class NotRun(Errored):
    """The case was not run, because an earlier one showed that it cannot be."""


def inconclusive(reason: str) -> NoReturn:
    """End the case as inconclusive, with the reason.

    Raises:
        Inconclusive: Always.
    """
    raise Inconclusive(reason)
