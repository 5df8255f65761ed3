"""What a node pulls between two images, and what an image is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from vllm_ci.domain.errors import UsageError
from vllm_ci.images.spec_file import host_platform
from vllm_ci.images.store import Store, image_config, image_manifest
from vllm_ci.registry.layout import REF_NAME


@dataclass(frozen=True, kw_only=True)
class ComparedLayer:
    """A layer of an image.

    Attributes:
        tier: Its tier, or what made it, where another builder did.
        digest: Of its compressed bytes.
        size_bytes: Of its compressed bytes.
        comment: What it is.
    """

    tier: str
    digest: str
    size_bytes: int
    comment: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What a node with one image pulls for another.

    Attributes:
        pulled: Layers it lacks.
        shared_bytes: Of layers it has.
        pulled_bytes: Of layers it lacks, manifest and config included.
    """

    pulled: tuple[ComparedLayer, ...]
    shared_bytes: int
    pulled_bytes: int


def find(store: Store, name: str) -> str:
    """Digest of an image in the store, by digest, name, tag, commit, or the beginning of any of them.

    Raises:
        UsageError: None is meant, or several are.
    """
    entries = {item["digest"]: item for item in store.index()}
    if name in entries:
        return name
    if name.startswith("sha256:") and store.blob(name).exists():
        return name
    found: set[str] = {item["digest"] for item in store.index() if _means(name, item["annotations"][REF_NAME], item["digest"])}
    if len(found) == 1:
        return found.pop()
    known = [item["annotations"][REF_NAME] for item in store.index()]
    raise UsageError(
        f"{name} matches {len(found)} images",
        why="the store has " + (", ".join(known[-5:]) or "none"),
        remedy="give a digest or a full name, or build it first",
    )


def _means(name: str, full: str, digest: str) -> bool:
    tag = full.rpartition(":")[2]
    return (
        full.startswith(name) or tag.startswith(name) or digest.removeprefix("sha256:").startswith(name.removeprefix("sha256:"))
    )


def layers(store: Store, digest: str, *, platform: str = "") -> tuple[ComparedLayer, ...]:
    """The layers of an image, lowest first."""
    platform = platform or host_platform()
    manifest = image_manifest(digest, platform=platform, store=store)
    config = image_config(digest, platform=platform, store=store)
    history = [item for item in config.get("history", []) if not item.get("empty_layer")]
    return tuple(
        ComparedLayer(
            tier=_tier(item),
            digest=descriptor["digest"],
            size_bytes=descriptor["size"],
            comment=item.get("comment", ""),
        )
        for descriptor, item in zip(manifest["layers"], history or [{}] * len(manifest["layers"]), strict=True)
    )


def explained(store: Store, digest: str, *, platform: str = "") -> list[dict[str, Any]]:
    """Tier, digest and inputs of each layer of an image that was made here."""
    inputs = {}
    for path in (store.root / "layers").glob("*.json"):
        facts = json.loads(path.read_bytes())
        inputs[facts["digest"]] = facts.get("inputs", {})
    return [
        {"tier": layer.tier, "digest": layer.digest, "comment": layer.comment, "inputs": inputs.get(layer.digest, {})}
        for layer in layers(store, digest, platform=platform)
    ]


def _tier(item: dict[str, Any]) -> str:
    made = str(item.get("created_by", "")).split()
    return made[1] if made[:1] == ["vllm-ci"] and len(made) > 1 else "under"


def difference(store: Store, before: str, after: str, *, platform: str = "") -> Difference:
    """What a node that has ``before`` pulls for ``after``."""
    platform = platform or host_platform()
    had = {layer.digest for layer in layers(store, before, platform=platform)}
    wanted = layers(store, after, platform=platform)
    pulled = tuple(layer for layer in wanted if layer.digest not in had)
    manifest = image_manifest(after, platform=platform, store=store)
    overhead = len(json.dumps(manifest)) + manifest["config"]["size"] if before != after else 0
    return Difference(
        pulled=pulled,
        shared_bytes=sum(layer.size_bytes for layer in wanted if layer.digest in had),
        pulled_bytes=sum(layer.size_bytes for layer in pulled) + overhead,
    )
