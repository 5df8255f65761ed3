"""Writes YAML for people and for diffs: in the given order, without aliases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Repeats what occurs twice: files that people edit have no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    """Several lines as a block; the emitter quotes what would be read as something else."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def dump(document: Mapping[str, Any]) -> str:
    """One document."""
    return yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)


def dump_all(documents: Iterable[Mapping[str, Any]]) -> str:
    """Documents, separated by ``---``."""
    return "---\n".join(dump(each) for each in documents)
