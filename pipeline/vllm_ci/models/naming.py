"""Names of models, their versions and aliases: ``chat``, ``chat@v3``, ``chat@champion``, ``chat@sha256:...``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vllm_ci.domain.errors import UsageError
from vllm_ci.registry.reference import is_digest

_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_VERSION = re.compile(r"v([1-9][0-9]{0,8})")
_ALIAS = re.compile(r"[a-z][a-z0-9-]{0,63}")
_LONGEST_NAME = 96


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """What a user calls a model; at most one of version, alias and digest is set, and none means the newest version.

    Attributes:
        name: Of the model.
        version: Number of the version; 0 for none.
        alias: Name of an alias.
        digest: Of the model's manifest.
    """

    name: str
    version: int = 0
    alias: str = ""
    digest: str = ""

    def __str__(self) -> str:
        which = f"v{self.version}" if self.version else self.alias or self.digest
        return f"{self.name}@{which}" if which else self.name


def parse(text: str) -> ModelRef:
    """The reference that ``text`` is.

    Raises:
        UsageError: It is none.
    """
    name, at, which = text.partition("@")
    check_name(name)
    if not at:
        return ModelRef(name=name)
    if is_digest(which):
        return ModelRef(name=name, digest=which)
    if number := version(which):
        return ModelRef(name=name, version=number)
    return ModelRef(name=name, alias=check_alias(which))


def assignment(name: str, text: str) -> tuple[str, ModelRef]:
    """The alias and the version that ``ALIAS=VERSION`` means for the model ``name``.

    Raises:
        UsageError: It is no assignment, or one of them is not valid.
    """
    alias, equals, which = text.partition("=")
    if not equals or not which:
        raise UsageError(f"not ALIAS=VERSION: {text!r}", remedy="write for example champion=v3")
    return check_alias(alias), parse(f"{name}@{which}")


def earlier(text: str) -> int:
    """The number of the version to roll back to; 0 for no text: the newest earlier one.

    Raises:
        UsageError: It is no version.
    """
    number = version(text)
    if text and not number:
        raise UsageError(f"not a version: {text!r}", remedy="write for example --to v1")
    return number


def check_one_source(*given: object) -> None:
    """Check that one thing to add is named.

    Args:
        given: A folder, a GGUF file, a model of a hub or of MLflow; ``None`` or empty for what is not given.

    Raises:
        UsageError: There is none, or there are several.
    """
    if sum(each is not None and each != "" for each in given) != 1:
        raise UsageError(
            "what to add is not clear",
            remedy="name one folder, or --gguf FILE, or --hub ORG/NAME@REVISION, or --mlflow models:/NAME/VERSION",
        )


def check_name(name: str) -> str:
    """``name`` itself.

    Raises:
        UsageError: It is not the name of a model.
    """
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise UsageError(
            f"not the name of a model: {name!r}",
            remedy=f"use at most {_LONGEST_NAME} lower-case letters and digits, with single '.', '_' or '-' between them",
        )
    return name


def check_alias(alias: str) -> str:
    """``alias`` itself.

    Raises:
        UsageError: It is not the name of an alias: one cannot look like a version.
    """
    if not _ALIAS.fullmatch(alias) or re.fullmatch(r"v[0-9]+", alias):
        raise UsageError(
            f"not a version, an alias or a digest: {alias!r}",
            remedy="write v3, an alias such as champion (lower-case letters, digits and '-'), or sha256: and 64 hex digits",
        )
    return alias


def version(text: str) -> int:
    """The number in ``v3``; 0 if the text is not a version."""
    found = _VERSION.fullmatch(text)
    return int(found[1]) if found else 0
