"""Generators of random numbers that give the same numbers on every machine."""

from __future__ import annotations

import random


def seeded(*what: object) -> random.Random:
    """A generator for one purpose; other purposes get other numbers from the same seed."""
    return random.Random(":".join(map(str, what)))  # noqa: S311 - for repeatable load, not for secrets
