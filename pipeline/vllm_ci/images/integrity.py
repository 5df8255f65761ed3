"""The expected hash of each file of a built image: from its wheel or commit, or from the tar of a base image."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from vllm_ci.domain.errors import BuildError
from vllm_ci.images import members
from vllm_ci.images.shape import Leaf, Shape
from vllm_ci.images.spec_file import host_platform
from vllm_ci.images.store import Store, image_manifest

# No project has a space in its name.
FOUNDATION = "base image"
# Files that engines write or mount over when they start a container; their content in the image does not matter.
_ENGINES_OWN = ("etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", "dev/*", "proc/*", "run/*", "sys/*", "tmp/*")


def manifest(digest: str, *, platform: str = "", store: Store | None = None) -> dict[str, dict[str, str]]:
    """Owner (a wheel's project, ``debian``, ``settings``, ``commit``, ``base image``) to absolute path to hex sha256.

    Byte code is left out. A file that a later layer replaces or deletes is the later layer's.

    Raises:
        BuildError: The image was not built here.
    """
    store = store or Store()
    layers = image_manifest(digest, platform=platform or host_platform(), store=store)["layers"]
    shape = Shape()
    known = []
    for layer in layers:
        known.append(_by_path(store, layer))
        shape.apply(members.of_layer(store, layer), name=layer["digest"])
    result: dict[str, dict[str, str]] = {}
    for path, leaf in sorted(shape.files()):
        if (found := _fact(known[leaf.layer], path, leaf)) is not None:
            owner, expected = found
            result.setdefault(owner, {})[f"/{path}"] = expected
    return result


def _by_path(store: Store, layer: Mapping[str, Any]) -> dict[str, tuple[str, str]] | None:
    """Owner and hash of a layer's files by path; nothing for a layer of ``base.image``, whose members have their hashes."""
    record = store.record("files", layer["digest"].removeprefix("sha256:"))
    if record is not None:
        return {path: (owner, expected) for owner, files in record.items() for path, expected in files.items()}
    if members.kept(store, layer["digest"]) is None:
        raise BuildError(
            f"there is no record of the files in layer {layer['digest']}", remedy="build the image again: vllm-ci build"
        )
    return None


def _fact(known: Mapping[str, tuple[str, str]] | None, path: str, leaf: Leaf) -> tuple[str, str] | None:
    if known is not None:
        return known.get(leaf.member.path)
    if path.endswith((".pyc", ".pyo")) or any(fnmatchcase(path, pattern) for pattern in _ENGINES_OWN):
        return None
    return FOUNDATION, leaf.member.digest
