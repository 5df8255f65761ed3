"""Versions that are there already, each file compared with its digest."""

from __future__ import annotations

import json
from pathlib import Path

from vllm_ci.datasets import store
from vllm_ci.datasets.record import Collected, Prepared
from vllm_ci.datasets.store import Kind, Version
from vllm_ci.domain.errors import UsageError


def collected(folder: Path) -> Collected:
    """A version of collected data.

    Raises:
        UsageError: There is none in ``folder``.
        TamperedError: A file was altered.
    """
    return as_collected(_of_kind(folder, "collected"))


def prepared(folder: Path) -> Prepared:
    """A version of prepared data.

    Raises:
        UsageError: There is none in ``folder``.
        TamperedError: A file was altered.
    """
    return as_prepared(_of_kind(folder, "prepared"))


def digests(folder: Path) -> dict[str, str]:
    """Digests of prepared data and of what it is made from, by name, if the folder is a version or a copy of one; else none.

    Raises:
        TamperedError: A file was altered.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        manifest = None
    inside = store.is_version(folder)
    if not inside and not (isinstance(manifest, dict) and manifest.get("kind") == "prepared" and "facts" in manifest):
        return {}
    found = store.load(folder, copy=not inside)
    if found.kind != "prepared":
        raise UsageError(f"{folder} is {found.kind} data, not prepared", remedy="prepare it: vllm-ci data prepare")
    return {"collected data": found.facts["collected"], "prepared data": found.digest}


def as_collected(version: Version, *, earlier: tuple[str, ...] = ()) -> Collected:
    """A verified version of collected data."""
    facts = version.facts
    return Collected(
        folder=version.folder,
        digest=version.digest,
        rows=facts["rows"],
        dropped=facts["dropped"],
        masked=facts["masked"],
        earlier=tuple(each for each in earlier if each != version.digest),
        changed=version.changed,
    )


def as_prepared(version: Version) -> Prepared:
    """A verified version of prepared data."""
    facts = version.facts
    return Prepared(
        folder=version.folder,
        digest=version.digest,
        collected=facts["collected"],
        rows=facts["rows"],
        tokens=facts["tokens"],
        dropped=facts["dropped"],
        changed=version.changed,
    )


def _of_kind(folder: Path, kind: Kind) -> Version:
    found = store.load(folder)
    if found.kind != kind:
        raise UsageError(f"{folder} is {found.kind} data, not {kind}", remedy=f"name a folder below {kind}/")
    return found
