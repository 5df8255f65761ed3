"""What is known of a built image, as files that later steps read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vllm_ci.images import device, integrity, materials
from vllm_ci.images.build import BuiltImage
from vllm_ci.images.request import BuildRequest
from vllm_ci.images.spec_file import host_platform
from vllm_ci.images.store import Store, image_config


def summary(request: BuildRequest, image: BuiltImage, *, repository: str = "", pushed_bytes: int = 0) -> dict[str, Any]:
    """The JSON object of ``vllm-ci build --json``, which is also ``build.json``.

    Args:
        request: What was asked for.
        image: What was built.
        repository: Where it was pushed to, empty for nowhere.
        pushed_bytes: How much was sent.
    """
    return {
        "commit": {"sha": request.commit.sha, "dirty": request.commit.dirty},
        "image": {
            "reference": f"{repository}@{image.ref.digest}" if repository else image.ref.reference,
            "digest": image.ref.digest,
            "tags": list(image.ref.tags),
            "layout": str(image.layout),
            "manifests": image.manifests,
            "device": device.of(request.spec),
        },
        "seconds": round(image.seconds, 3),
        "layers": [
            {
                "tier": layer.tier,
                "digest": layer.digest,
                "size_bytes": layer.size_bytes,
                "built": layer.built,
                "platform": layer.platform,
                "reason": layer.reason,
            }
            for layer in image.layers
        ],
        "explain": list(image.explain),
        "pushed_bytes": pushed_bytes,
    }


def write(folder: Path, image: BuiltImage, found: dict[str, Any]) -> None:
    """``build.json``, ``materials.json``, and of this platform ``config.json`` (OCI image config) and ``manifest.json``.

    ``manifest.json`` maps owner to path to sha256.

    Args:
        folder: Where to; it is made.
        image: What was built.
        found: Its :func:`summary`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = host_platform()
    digest = image.manifests.get(own) or next(iter(image.manifests.values()))
    for name, value in (
        ("build.json", found),
        ("materials.json", materials.read(Store(), image.ref.digest).to_json(image.ref.digest)),
        ("config.json", image_config(digest)),
        ("manifest.json", integrity.manifest(digest)),
    ):
        (folder / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
