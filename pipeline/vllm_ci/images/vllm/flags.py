"""Flags that not all versions of vLLM have (``flags.yaml``)."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from importlib import resources

import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version


@functools.cache
def _table() -> tuple[tuple[SpecifierSet, frozenset[str]], ...]:
    text = resources.files(__package__).joinpath("flags.yaml").read_text(encoding="utf-8")
    return tuple((SpecifierSet(entry["missing_in"]), frozenset(entry["flags"])) for entry in yaml.safe_load(text))


def missing(names: Iterable[str], version: Version) -> tuple[str, ...]:
    """Flags, of those that are given (``max-model-len``), that a version of vLLM is known not to have (``--max-model-len``)."""
    public = Version(version.public)
    lacking = {flag for versions, flags in _table() if versions.contains(public, prereleases=True) for flag in flags}
    return tuple(f"--{name}" for name in names if f"--{name.removeprefix('no-')}" in lacking or f"--{name}" in lacking)
