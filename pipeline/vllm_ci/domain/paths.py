"""Paths as users write them, normalised where they are read; all later code compares strings.

Three kinds: in the repository (relative, ``a/b`` or ``.``), in the image (absolute, ``/a/b``) and on this machine (either).
All of them use forward slashes. A path with ``..``, a backslash, a control character or bytes that are not UTF-8 is refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NoReturn

WHITEOUT = ".wh."
"""Prefix of names that delete files of lower layers (OCI image specification, "Whiteouts")."""


class InvalidPath(ValueError):
    """A path that is not valid; the message says why, and what to write instead.

    Args:
        text: The path.
        why: What is wrong with it, as the end of a sentence that starts with the path.
        write: What to write instead.
    """

    def __init__(self, text: str, why: str, write: str) -> None:
        super().__init__(f"{shown(text)} {why}; write {write}")
        self.why = f"{shown(text)} {why}"
        self.remedy = f"write {write}"


def shown(text: str) -> str:
    """``text`` in a printable form, on one line, for error messages."""
    if not text.isprintable():
        return re.sub(r"\\udc([0-9a-f]{2})", r"\\x\1", ascii(text))  # Python's surrogates for bytes that are not UTF-8
    return text if text and text == text.strip() else repr(text)


def in_repository(text: str, *, whole: bool = False) -> str:
    """A path in the repository: ``a/b``, without ``./``, double slashes or a slash at the end.

    Args:
        text: As written.
        whole: Whether ``.``, the whole repository, is allowed.

    Raises:
        InvalidPath: It is absolute, leaves the repository, or is not a path.
    """
    parts = _parts(text, "a path in the repository, such as serving/templates")
    if text.startswith("/"):
        _refuse(text, "is absolute", f"a path relative to the configuration file, e.g. {'/'.join(parts[-2:]) or '.'}")
    if not parts and not whole:
        _refuse(text, "is the whole directory", "the path of a file or directory in it")
    return "/".join(parts) or "."


def in_image(text: str, *, directory: bool = False) -> str:
    """An absolute path in the image: ``/a/b``, without ``.``, double slashes or a slash at the end.

    Args:
        text: As written.
        directory: Keep a slash at the end, which marks a directory.

    Raises:
        InvalidPath: It is relative, contains ``..``, is the root directory or a whiteout, or is not a path.
    """
    parts = _parts(text, "an absolute path in the image, such as /opt/serving")
    if not text.startswith("/"):
        _refuse(text, "is relative", f"the absolute path in the image, e.g. /opt/{'/'.join(parts) or 'serving'}")
    if not parts:
        _refuse(text, "is the image's root directory", "a directory below it, e.g. /opt/serving")
    for part in parts:
        if part.startswith(WHITEOUT):
            _refuse(text, f"contains {part}, a name that deletes files of lower layers", "another name")
    return "/" + "/".join(parts) + ("/" if directory and text.endswith(("/", "/.")) else "")


def root_or_in_image(text: str) -> str:
    """Like :func:`in_image`, but ``/`` is allowed."""
    return "/" if text.startswith("/") and not text.strip("/") else in_image(text)


def of_machine(text: str) -> str:
    """A path on this machine, relative or absolute, without ``./``, double slashes or a slash at the end.

    ``..`` is kept: after a symbolic link it cannot be resolved by looking at the string.

    Raises:
        InvalidPath: It is not a path, or starts with ``~``, which only a shell expands.
    """
    _parts(text, "a path, such as models/tiny", climbs=True)
    if text.startswith("~"):
        _refuse(text, "starts with ~, which only a shell expands", "the full path")
    parts = [part for part in text.split("/") if part not in {"", "."}]
    return ("/" if text.startswith("/") else "") + "/".join(parts) or "."


def pattern(text: str) -> str:
    """A pattern of paths without ``./`` in front. ``!`` in front includes again; a slash at the end matches all below it.

    Raises:
        InvalidPath: It cannot match anything: it is empty, absolute, or contains ``..``.
    """
    sign, rest = ("!", text[1:]) if text.startswith("!") else ("", text)
    return sign + in_repository(rest) + ("/*" if rest.endswith("/") else "")


def link_target(text: str) -> str:
    """Target of a symbolic link, unchanged; relative or absolute.

    Raises:
        InvalidPath: It is not a path.
    """
    _parts(text, "a path, such as /usr/bin/gcc", climbs=True)
    return text


def program(text: str) -> str:
    """A program of the image: an absolute path, or a name without slashes that is found on ``PATH``.

    Raises:
        InvalidPath: It is relative, a directory, or no path.
    """
    if "/" in text:
        return in_image(text)
    write = "the name of a program, or its absolute path in the image"
    if not _parts(text, write):
        _refuse(text, "is a directory", write)
    return text


def test_path(text: str) -> str:
    """Path of tests: a file or directory, optionally with pytest's ``::name`` after it.

    Raises:
        InvalidPath: It is absolute, leaves the repository, or is not a path.
    """
    path, separator, name = text.partition("::")
    return in_repository(path, whole=True) + separator + name


def whiteout(path: str) -> str:
    """The component of ``path`` that deletes files of lower layers; empty when there is none."""
    return next((part for part in path.split("/") if part.startswith(WHITEOUT)), "") if WHITEOUT in path else ""


def nearest(text: str, known: Iterable[str]) -> tuple[str, ...]:
    """Up to three of ``known`` that ``text`` may be a misspelling of, the nearest first."""
    return tuple(difflib.get_close_matches(text, list(known), 3, 0.5))


def _checked(text: str, write: str) -> str:
    if not text.strip():
        _refuse(text, "is empty", write)
    if "\\" in text:
        _refuse(text, "contains a backslash", f"forward slashes: {shown(text.replace(chr(92), '/'))}")
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in text):
        _refuse(text, "contains a control character", write)
    if any(0xD800 <= ord(sign) <= 0xDFFF for sign in text):
        _refuse(text, "is not UTF-8", write)
    return text


def _parts(text: str, write: str, *, climbs: bool = False) -> list[str]:
    parts = [part for part in _checked(text, write).split("/") if part not in {"", "."}]
    if parts and not "".join(parts).strip():
        _refuse(text, "is blank", write)
    if ".." in parts and not climbs:
        _refuse(text, "contains ..", f"{write}, without ..")
    return parts


def _refuse(text: str, why: str, write: str) -> NoReturn:
    raise InvalidPath(text, why, write)
