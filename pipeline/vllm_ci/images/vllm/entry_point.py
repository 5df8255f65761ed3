"""Which module of vLLM serves the OpenAI API: it moved between versions (``entry_points.yaml``)."""

from __future__ import annotations

import functools
from importlib import resources

import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version


@functools.cache
def _table() -> tuple[tuple[SpecifierSet, str], ...]:
    text = resources.files(__package__).joinpath("entry_points.yaml").read_text(encoding="utf-8")
    return tuple((SpecifierSet(entry["versions"]), str(entry["module"])) for entry in yaml.safe_load(text))


def of(version: Version) -> str:
    """The module for a version of vLLM; empty if it is not known."""
    public = Version(version.public)
    return next((module for versions, module in _table() if versions.contains(public, prereleases=True)), "")


def modules() -> frozenset[str]:
    """All such modules."""
    return frozenset(module for _, module in _table())
