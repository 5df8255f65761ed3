"""Writes YAML for people and for diffs: in the given order, without aliases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

# Readers differ in what a plain word is: YAML 1.2 reads 1e3 and 0o17 as numbers, and some read y as true.
_PLAIN = re.compile(r"(--)?[A-Za-z/][A-Za-z0-9._/@:=+-]*[A-Za-z0-9]|[A-Za-z]")
_WORDS = re.compile(r"(?i)y|n|yes|no|on|off|true|false|null")


class _Dumper(yaml.SafeDumper):
    """Repeats what occurs twice: files that people edit have no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    """Several lines as a block; in quotes what a reader could take for something other than text."""
    if "\n" in value:
        style = "|"
    elif value.isascii() and value.isprintable():
        style = "" if _PLAIN.fullmatch(value) and not _WORDS.fullmatch(value) else "'"
    else:
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def dump(document: Mapping[str, Any]) -> str:
    """One document."""
    return yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)


def dump_all(documents: Iterable[Mapping[str, Any]]) -> str:
    """Documents, separated by ``---``."""
    return "---\n".join(dump(each) for each in documents)
