"""An image that other layers stand on: its blobs are copied or mounted, never unpacked."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_ci.domain.errors import BuildError, ConfigError
from vllm_ci.images.store import Store, disk, publish

if TYPE_CHECKING:
    from vllm_ci.registry.repository import Repository


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


def load(image: str, platform: str, store: Store, progress: Callable[[str], None]) -> Foundation:
    """Bring an image's blobs into the store; what is there already is not asked for again.

    Raises:
        BuildError: A blob is not what its digest says.
        ConfigError: The image has no such platform.
        RegistryError: It cannot be had.
    """
    name, _, digest = image.rpartition("@")
    key = hashlib.sha256(f"{digest} {platform}".encode()).hexdigest()
    record = store.record("foundations", key)
    if record is None or not all(store.blob(item["digest"]).exists() for item in record["layers"]):
        record = _fetch(name, digest, platform, store, progress)
        store.keep("foundations", key, record)
    config = record["config"]
    return Foundation(
        name=image,
        layers=tuple(record["layers"]),
        diff_ids=tuple(config["rootfs"]["diff_ids"]),
        history=tuple(config.get("history") or ()),
        env=dict(item.partition("=")[::2] for item in config.get("config", {}).get("Env") or ()),
    )


def _fetch(name: str, digest: str, platform: str, store: Store, progress: Callable[[str], None]) -> dict[str, Any]:
    from vllm_ci.registry.transfer import open_repository  # a build that stands on packages loads no registry client

    progress(f"fetching base image {name}")
    store.prepare()
    with open_repository(name) as source:
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
        f"the base image {digest[:19]} has nothing for {platform}", remedy="build another platform, or change base.image"
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
        raise BuildError(f"the registry gave other bytes for sha256:{wanted}", remedy="try again, or ask its operator")
