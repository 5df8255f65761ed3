"""Which module of vLLM serves the OpenAI API, and which gRPC: they moved between versions (``entry_points.yaml``)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources
from pathlib import PurePosixPath

import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version


@functools.cache
def _table() -> tuple[tuple[SpecifierSet, str, str], ...]:
    text = resources.files(__package__).joinpath("entry_points.yaml").read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    return tuple((SpecifierSet(entry["versions"]), str(entry["module"]), str(entry["grpc"])) for entry in found)


def of(version: Version) -> str:
    """The module for a version of vLLM; empty if it is not known."""
    public = Version(version.public)
    return next((module for versions, module, _ in _table() if versions.contains(public, prereleases=True)), "")


def modules() -> frozenset[str]:
    """All such modules."""
    return frozenset(module for _, module, _ in _table())


def over_grpc(argv: Sequence[str]) -> tuple[str, ...]:
    """The command line of an entry point that serves gRPC in the place of the OpenAI API; empty if it is not known.

    Args:
        argv: ``vllm serve`` or ``python -m MODULE``, with its arguments.
    """
    if len(argv) > 1 and (PurePosixPath(argv[0]).name, argv[1]) == ("vllm", "serve"):
        return (*argv, "--grpc")
    known = {module: grpc for _, module, grpc in _table()}
    if len(argv) > 2 and argv[1] == "-m" and argv[2] in known:
        return (*argv[:2], known[argv[2]], *argv[3:])
    return ()
