"""An image below our layers (base.image): its blobs are reused as they are, and its layers are read once."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_ci.domain.errors import BuildError, ConfigError
from vllm_ci.domain.events import Emit, step
from vllm_ci.images import members
from vllm_ci.images.store import LAYER, Store, disk, publish

if TYPE_CHECKING:
    from vllm_ci.registry.repository import Repository

_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_DOCKER = {
    _DOCKER_LAYER: LAYER,
    f"{_DOCKER_LAYER}.gzip": f"{LAYER}+gzip",
    f"{_DOCKER_LAYER}.zstd": f"{LAYER}+zstd",
}


@dataclass(frozen=True, kw_only=True)
class Foundation:
    """What an image under ours contributes.

    Attributes:
        name: ``NAME@sha256:...`` as the spec has it.
        layers: Its descriptors.
        diff_ids: Of its layers.
        history: Of its config.
        env: Of its config.
    """

    name: str
    layers: tuple[dict[str, Any], ...]
    diff_ids: tuple[str, ...]
    history: tuple[dict[str, Any], ...]
    env: Mapping[str, str]


def load(image: str, platform: str, store: Store, emit: Emit) -> Foundation:
    """Bring an image's blobs into the store; what is there already is not requested again.

    Raises:
        BuildError: A blob is not what its digest says, or cannot be unpacked.
        ConfigError: The image has no such platform.
        RegistryError: It cannot be fetched.
    """
    name, _, digest = image.rpartition("@")
    key = hashlib.sha256(f"{digest} {platform}".encode()).hexdigest()
    record = store.record("foundations", key)
    if record is None or not all(store.blob(item["digest"]).exists() for item in record["layers"]):
        record = _fetch(name, digest, platform, store, emit)
        store.keep("foundations", key, record)
    config, layers = record["config"], [{**item, "mediaType": _oci(item["mediaType"])} for item in record["layers"]]
    diff_ids = _diff_ids(config, layers, image)
    _read(store, layers, diff_ids, emit)
    return Foundation(
        name=image,
        layers=tuple(layers),
        diff_ids=tuple(diff_ids),
        history=tuple(_history(config, len(layers))),
        env=dict(item.partition("=")[::2] for item in config.get("config", {}).get("Env") or ()),
    )


def _oci(media_type: str) -> str:
    """Docker's media types as those of the OCI specification, which alone an OCI manifest may name; the blobs are the same."""
    return _DOCKER.get(media_type, media_type)


def _diff_ids(config: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], image: str) -> list[str]:
    found = [str(item) for item in (config.get("rootfs") or {}).get("diff_ids") or ()]
    if len(found) != len(layers):
        raise BuildError(
            f"the configuration of {image} lists {len(found)} layers, its manifest {len(layers)}",
            why="container engines cannot start it (it is an artifact, or in a very old format)",
            remedy="set base.image to an image with the digest of its manifest or index",
        )
    return found


def _history(config: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """The image's history, with one entry for each of its layers: tools match them up, and some images have fewer or none."""
    found: list[dict[str, Any]] = list(config.get("history") or ())
    missing = count - sum(1 for item in found if not item.get("empty_layer"))
    if missing < 0:
        return [{"created_by": "base.image"}] * count
    return [*found, *[{"created_by": "base.image"}] * missing]


def _read(store: Store, layers: Sequence[dict[str, Any]], diff_ids: Sequence[str], emit: Emit) -> None:
    """Read the members of layers that are new in this store."""
    new = [(item, diff_id) for item, diff_id in zip(layers, diff_ids, strict=True) if not members.known(store, item["digest"])]
    if not new:
        return
    what = f"reading {len(new)} layers, {sum(item['size'] for item, _ in new) / 1e6:,.0f} MB"
    with step(emit, "read base image", what), ThreadPoolExecutor(4, thread_name_prefix="base") as pool:
        list(pool.map(lambda one: members.of_layer(store, *one), new))


def _fetch(name: str, digest: str, platform: str, store: Store, emit: Emit) -> dict[str, Any]:
    from vllm_ci.registry.transfer import open_repository  # a build from packages loads no registry client

    store.prepare()
    with step(emit, "fetch base image", name), open_repository(name) as source:
        manifest = _manifest(source, digest, platform)
        config = json.loads(source.blob(manifest["config"]["digest"]))
        layers = [
            {"mediaType": item["mediaType"], "digest": item["digest"], "size": item["size"]} for item in manifest["layers"]
        ]
        with ThreadPoolExecutor(4, thread_name_prefix="base") as pool:
            list(pool.map(lambda item: _have(source, item, store), layers))
    return {"layers": layers, "config": config}


def _manifest(source: Repository, digest: str, platform: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(source.manifest(digest).content)
    if "manifests" not in found:
        return found
    for item in found["manifests"]:
        its = item.get("platform", {})
        if f"{its.get('os')}/{its.get('architecture')}" == platform:
            return _manifest(source, item["digest"], platform)
    raise ConfigError(
        f"the base image {digest[:19]} has no image for {platform}", remedy="build another platform, or change base.image"
    )


def _have(source: Repository, item: dict[str, Any], store: Store) -> None:
    target = store.blob(item["digest"])
    if target.exists():
        return
    with store.lock(f"blob-{target.name}"):
        if target.exists():
            return
        handle, name = tempfile.mkstemp(dir=store.blobs, prefix=".part-")
        part, found = Path(name), hashlib.sha256()
        try:
            with disk(part, needed_bytes=item["size"]), os.fdopen(handle, "wb") as file:
                for piece in source.read_blob(item["digest"]):
                    found.update(piece)
                    file.write(piece)
            _check(found.hexdigest(), target.name)
            part.chmod(0o644)
            publish(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _check(found: str, wanted: str) -> None:
    if found != wanted:
        raise BuildError(f"the registry sent wrong bytes for sha256:{wanted}", remedy="try again, or ask its operator")
