"""Configs, manifests and indexes (OCI image specification 1.1), and exporting an image to a layout of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.image_spec import ImageSpec
from vllm_ci.images import layer
from vllm_ci.images.foundation import Foundation
from vllm_ci.images.lockfile import LockedWheel
from vllm_ci.images.plan import LayerPlan
from vllm_ci.images.store import CONFIG, INDEX, MANIFEST, Store, canonical


def created(commit: Commit) -> str:
    """The commit's time as RFC 3339 has it."""
    return datetime.fromtimestamp(commit.committed_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def labels(spec: ImageSpec, commit: Commit, wheels: Iterable[LockedWheel], vllm_commit: str) -> dict[str, str]:
    """Labels every image gets, and those of the spec over them."""
    versions = {wheel.project: wheel.version for wheel in wheels}
    vllm = next((version for project, version in versions.items() if project.split("-")[0] == "vllm"), "")
    found = {
        "org.opencontainers.image.created": created(commit),
        "org.opencontainers.image.revision": commit.sha,
        "org.opencontainers.image.source": commit.source,
        "org.opencontainers.image.title": spec.repository.rpartition("/")[2],
        "org.opencontainers.image.version": vllm,
        "ai.vllm.build.commit": vllm_commit,
        "ai.vllm.image.tag": f"{spec.repository}:{spec.tag(commit.sha)}",
    }
    return {**{name: value for name, value in found.items() if value}, **spec.labels}


def image(
    store: Store,
    *,
    spec: ImageSpec,
    commit: Commit,
    platform: str,
    layers: list[dict[str, Any]],
    plans: list[LayerPlan],
    wheels: Iterable[LockedWheel],
    under: Foundation | None = None,
    vllm_commit: str = "",
) -> dict[str, Any]:
    """Write config and manifest of an image; its descriptor."""
    system, _, architecture = platform.partition("/")
    when = created(commit)
    running: dict[str, Any] = {
        "User": f"{spec.user.uid}:{spec.user.gid}",
        "Env": [f"{name}={value}" for name, value in sorted({**(under.env if under else {}), **spec.env}.items())],
        "Entrypoint": list(spec.entrypoint) or None,
        "Cmd": list(spec.command) or None,
        "WorkingDir": spec.workdir,
        "ExposedPorts": {port: {} for port in spec.ports} or None,
        "Labels": labels(spec, commit, wheels, vllm_commit),
        "StopSignal": "SIGTERM",
    }
    if spec.health:
        # Docker's extension, in nanoseconds (Docker image specification 1.2); the OCI specification reserves the name.
        running["Healthcheck"] = {
            "Test": ["CMD", *spec.health.argv],
            "Interval": int(spec.health.interval_s * 1e9),
            "Timeout": int(spec.health.timeout_s * 1e9),
            "StartPeriod": int(spec.health.start_period_s * 1e9),
            "Retries": spec.health.retries,
        }
    config = {
        "created": when,
        "architecture": architecture,
        "os": system,
        "config": {name: value for name, value in running.items() if value is not None},
        "rootfs": {"type": "layers", "diff_ids": [*(under.diff_ids if under else ()), *(item["diff_id"] for item in layers)]},
        "history": [
            *(under.history if under else ()),
            *({"created": when, "created_by": f"vllm-ci {item.tier}", "comment": item.explain} for item in plans),
        ],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor(store, CONFIG, canonical(config)),
        "layers": [
            *(under.layers if under else ()),
            *(
                {"mediaType": layer.media_type(spec.compression), "digest": item["digest"], "size": item["size_bytes"]}
                for item in layers
            ),
        ],
    }
    return {**_descriptor(store, MANIFEST, canonical(manifest)), "platform": {"os": system, "architecture": architecture}}


def index(store: Store, images: dict[str, dict[str, Any]], commit: Commit) -> dict[str, Any]:
    """Write an index of images for several platforms; its descriptor."""
    content = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [images[platform] for platform in sorted(images)],
        "annotations": {"org.opencontainers.image.revision": commit.sha, "org.opencontainers.image.created": created(commit)},
    }
    return _descriptor(store, INDEX, canonical(content))


def _descriptor(store: Store, media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": store.add(content), "size": len(content)}


def described(store: Store, digest: str) -> dict[str, Any]:
    """Descriptor of a manifest or index in the store."""
    content = store.read(digest)
    return {"mediaType": json.loads(content)["mediaType"], "digest": digest, "size": len(content)}


def reachable(store: Store, descriptor: dict[str, Any]) -> list[str]:
    """Digests of all blobs of an image or index, itself included; those of manifests last."""
    manifest = json.loads(store.read(descriptor["digest"]))
    below: list[str] = []
    for item in manifest.get("manifests", []):
        below += reachable(store, item)
    if "config" in manifest:
        below += [manifest["config"]["digest"], *(item["digest"] for item in manifest["layers"])]
    return list(dict.fromkeys([*below, descriptor["digest"]]))
