"""Shipped locks grow old: what a mirror has dropped since is locked anew in a copy, and the test says so."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

from vllm_ci.domain.errors import BuildError
from vllm_ci.images import resolver, supply
from vllm_ci.images.debian.mirrors import sources
from vllm_ci.images.lockfile import read_debs
from vllm_ci.images.spec_file import host_platform, load
from vllm_ci.images.store import Store


class Relocked(UserWarning):
    """The shipped Debian lock cannot be fetched any more."""


def usable(name: str, folder: Path) -> Path:
    """Path of a shipped spec whose Debian packages are to be had: itself, or a copy in ``folder`` with a new lock.

    A warning of the class :class:`Relocked` says which of the two it is.
    """
    spec = load(name)
    shipped = spec.wheels_lock.with_name(f"{name}.yaml")
    own = host_platform().partition("/")[2]
    debs = tuple(deb for deb in read_debs(spec.debs_lock) if deb.architecture == own)
    try:
        supply.fetch_debs(Store(), debs, sources=lambda: sources(spec.base.suite), emit=print)
    except BuildError as error:
        folder.mkdir(parents=True, exist_ok=True)
        for path in (shipped, spec.wheels_lock, spec.debs_lock):
            shutil.copy(path, folder / path.name)
        copy = folder / shipped.name
        changes = resolver.lock(load(copy), only="debs", emit=print).changes
        moved = ", ".join(f"{change.name} {change.before} -> {change.after}" for change in changes)
        warnings.warn(f"{error.message}; locked anew in a copy for this test: {moved}", Relocked, stacklevel=2)
        return copy
    return shipped
