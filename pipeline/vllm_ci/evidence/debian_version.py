"""Order of Debian versions (deb-version(7), "Sorting algorithm")."""

from __future__ import annotations

import re
from itertools import zip_longest

_PARTS = re.compile(r"([^0-9]*)([0-9]*)")


def compare(one: str, other: str) -> int:
    """-1, 0 or 1 as ``one`` is older than, the same as, or newer than ``other``."""
    for mine, theirs in zip(_split(one), _split(other), strict=True):
        if (found := _compare(mine, theirs)) != 0:
            return found
    return 0


def _split(version: str) -> tuple[str, str, str]:
    """Epoch, upstream version, Debian revision."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return (epoch, upstream, revision) if dash else (epoch, rest, "0")


def _compare(one: str, other: str) -> int:
    """Runs of other characters and of digits take turns."""
    for (word, number), (their_word, their_number) in zip_longest(
        _PARTS.findall(one), _PARTS.findall(other), fillvalue=("", "")
    ):
        for letter, theirs in zip_longest(word, their_word, fillvalue=""):
            if (first := _order(letter)) != (second := _order(theirs)):
                return -1 if first < second else 1
        if (first := int(number or 0)) != (second := int(their_number or 0)):
            return -1 if first < second else 1
    return 0


def _order(letter: str) -> int:
    """A tilde sorts before everything, even the end; letters before all other characters."""
    if letter == "~":
        return -1
    return 0 if not letter else ord(letter) if letter.isalpha() else ord(letter) + 256
