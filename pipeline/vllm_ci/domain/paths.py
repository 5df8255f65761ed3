"""Paths as users write them, made into one form, once, where they are read; everything below compares strings.

Three kinds: of the repository (relative, ``a/b`` or ``.``), of the image (absolute, ``/a/b``) and of this machine (either).
All of them use forward slashes. A path with ``..``, a backslash, a control character or bytes that are not UTF-8 is refused
rather than guessed at.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NoReturn

WHITEOUT = ".wh."
"""Prefix of names that delete files of lower layers (OCI image specification, "Whiteouts")."""


class InvalidPath(ValueError):
    """A path that is refused; says why, and the form that is right.

    Args:
        text: The path.
        why: What is wrong with it, as the end of a sentence that begins with the path.
        write: What to write instead.
    """

    def __init__(self, text: str, why: str, write: str) -> None:
        super().__init__(f"{shown(text)} {why}; write {write}")
        self.why = f"{shown(text)} {why}"
        self.remedy = f"write {write}"


def shown(text: str) -> str:
    """``text`` as an error message can hold it, on one line."""
    if not text.isprintable():
        return re.sub(r"\\udc([0-9a-f]{2})", r"\\x\1", ascii(text))  # bytes that are not UTF-8, as Python carries them
    return text if text and text == text.strip() else repr(text)


def in_repository(text: str, *, whole: bool = False) -> str:
    """A path in the repository: ``a/b``, without ``./``, doubled slashes and a slash at the end.

    Args:
        text: As written.
        whole: Whether ``.``, the whole of it, is meant as well.

    Raises:
        InvalidPath: It is absolute, leaves the repository, or is no path.
    """
    parts = _parts(text, "a path in the repository, such as serving/templates")
    if text.startswith("/"):
        _refuse(text, "is absolute", f"it relative to the configuration file, e.g. {'/'.join(parts[-2:]) or '.'}")
    if not parts and not whole:
        _refuse(text, "is the whole directory", "the path of something in it")
    return "/".join(parts) or "."


def in_image(text: str, *, directory: bool = False) -> str:
    """An absolute path in the image: ``/a/b``, without ``.``, doubled slashes and a slash at the end.

    Args:
        text: As written.
        directory: Keep a slash at the end, where it says something.

    Raises:
        InvalidPath: It is relative, holds ``..``, is the root directory, a whiteout, or no path.
    """
    parts = _parts(text, "an absolute path of the image, such as /opt/serving")
    if not text.startswith("/"):
        _refuse(text, "is relative", f"the absolute path in the image, e.g. /opt/{'/'.join(parts) or 'serving'}")
    if not parts:
        _refuse(text, "is the image's root directory", "a directory below it, e.g. /opt/serving")
    for part in parts:
        if part.startswith(WHITEOUT):
            _refuse(text, f"holds {part}, a name that deletes files of lower layers", "another name")
    return "/" + "/".join(parts) + ("/" if directory and text.endswith(("/", "/.")) else "")


def root_or_in_image(text: str) -> str:
    """As :func:`in_image`, or ``/`` itself."""
    return "/" if text.startswith("/") and not text.strip("/") else in_image(text)


def of_machine(text: str) -> str:
    """A path of this machine, relative or absolute, as written but for ``./``, doubled slashes and a slash at the end.

    ``..`` stays: behind a symbolic link it is not what a comparison of strings would make of it.

    Raises:
        InvalidPath: It is no path, or starts with ``~``, which only a shell expands.
    """
    _parts(text, "a path, such as models/tiny", climbs=True)
    if text.startswith("~"):
        _refuse(text, "starts with ~, which only a shell expands", "the path in full")
    parts = [part for part in text.split("/") if part not in {"", "."}]
    return ("/" if text.startswith("/") else "") + "/".join(parts) or "."


def pattern(text: str) -> str:
    """A pattern of paths (``!`` in front takes back), without ``./`` in front; with a slash at the end, all below a directory.

    Raises:
        InvalidPath: It can match nothing: it is empty, or absolute, or climbs.
    """
    sign, rest = ("!", text[1:]) if text.startswith("!") else ("", text)
    return sign + in_repository(rest) + ("/*" if rest.endswith("/") else "")


def link_target(text: str) -> str:
    """Target of a symbolic link: kept as written, relative or absolute.

    Raises:
        InvalidPath: It is no path.
    """
    _parts(text, "a path, such as /usr/bin/gcc", climbs=True)
    return text


def program(text: str) -> str:
    """A program of the image: an absolute path, or a name without slashes that ``PATH`` finds.

    Raises:
        InvalidPath: It is relative.
    """
    return in_image(text) if "/" in text else _checked(text, "the name of a program, or its absolute path in the image")


def test_path(text: str) -> str:
    """A path of tests: a file or directory, and pytest's ``::name`` after it.

    Raises:
        InvalidPath: It is absolute, leaves the repository, or is no path.
    """
    path, separator, name = text.partition("::")
    return in_repository(path, whole=True) + separator + name


def whiteout(path: str) -> str:
    """The component of ``path`` that would delete files of lower layers; empty when there is none."""
    return next((part for part in path.split("/") if part.startswith(WHITEOUT)), "") if WHITEOUT in path else ""


def nearest(text: str, known: Iterable[str]) -> tuple[str, ...]:
    """Up to three of ``known`` that ``text`` may be a misspelling of, the nearest first."""
    return tuple(difflib.get_close_matches(text, list(known), 3, 0.5))


def _checked(text: str, write: str) -> str:
    if not text.strip():
        _refuse(text, "is empty", write)
    if "\\" in text:
        _refuse(text, "holds a backslash", f"forward slashes: {shown(text.replace(chr(92), '/'))}")
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in text):
        _refuse(text, "holds a control character", write)
    if any(0xD800 <= ord(sign) <= 0xDFFF for sign in text):
        _refuse(text, "is not UTF-8", write)
    return text


def _parts(text: str, write: str, *, climbs: bool = False) -> list[str]:
    parts = [part for part in _checked(text, write).split("/") if part not in {"", "."}]
    if parts and not "".join(parts).strip():
        _refuse(text, "is blank", write)
    if ".." in parts and not climbs:
        _refuse(text, "holds ..", f"{write}, without ..")
    return parts


def _refuse(text: str, why: str, write: str) -> NoReturn:
    raise InvalidPath(text, why, write)
