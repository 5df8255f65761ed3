"""Endings of a case that an assert cannot express. Standard library only: it also runs inside images."""

from __future__ import annotations

from typing import NoReturn


class Inconclusive(Exception):
    """Measured, but the measurement decides nothing; the message is the reason."""


class Errored(Exception):
    """The suite itself could not look (its client broke, its own data are missing): nothing is known about the server."""


def inconclusive(reason: str) -> NoReturn:
    """End the case as inconclusive, with the reason.

    Raises:
        Inconclusive: Always.
    """
    raise Inconclusive(reason)
