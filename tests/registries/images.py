"""Small synthetic images, in the layout that the builder writes."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import random
import tarfile
from pathlib import Path

from vllm_ci.registry.layout import Layout
from vllm_ci.registry.manifest import OCI_EMPTY, OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest, digest_of


def layer_of(files: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(raw.getvalue(), mtime=0)


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def add_image(
    layout: Layout, *layers: bytes, labels: dict[str, str] | None = None, tag: str = "", entry_point: tuple[str, ...] = ()
) -> Manifest:
    """An image with these layers (tar, gzip), put into `layout`."""
    diffs = [digest_of(gzip.decompress(layer)) for layer in layers]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": labels or {}, **({"Entrypoint": entry_point} if entry_point else {})},
            "rootfs": {"type": "layers", "diff_ids": diffs},
        }
    ).encode()
    descriptors = [_put(layout, layer, "application/vnd.oci.image.layer.v1.tar+gzip") for layer in layers]
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _put(layout, config, "application/vnd.oci.image.config.v1+json").to_json(),
        "layers": [each.to_json() for each in descriptors],
    }
    manifest = Manifest(content=json.dumps(value).encode(), media_type=OCI_MANIFEST)
    layout.put_manifest(manifest, tag=tag)
    return manifest


def add_index(layout: Layout, *images: Manifest) -> Manifest:
    """An index of images for two platforms."""
    platforms = ("linux/amd64", "linux/arm64")
    entries = []
    for image, platform in zip(images, platforms, strict=False):
        described = image.descriptor
        entries.append(
            Descriptor(
                media_type=described.media_type, digest=described.digest, size=described.size, platform=platform
            ).to_json()
        )
    value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    index = Manifest(content=json.dumps(value).encode(), media_type=OCI_INDEX)
    layout.put_manifest(index)
    return index


def small_image(
    folder: Path, seed: int = 0, *, labels: dict[str, str] | None = None, entry_point: tuple[str, ...] = ()
) -> tuple[Layout, Manifest]:
    """A layout with one image of two layers."""
    layout = Layout(folder)
    base = layer_of({"etc/base": b"the same in every image" * 100})
    own = layer_of({"srv/file": noise(2000, seed)})
    return layout, add_image(layout, base, own, labels=labels, entry_point=entry_point)


def referrer(subject: Manifest, text: str) -> tuple[Manifest, list[bytes]]:
    """A manifest about `subject`, and the blobs it needs."""
    blobs = [b"{}", text.encode()]
    types = (OCI_EMPTY, "text/plain")
    empty, layer = (
        Descriptor(media_type=kind, digest=digest_of(blob), size=len(blob)) for kind, blob in zip(types, blobs, strict=True)
    )
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "text/plain",
        "config": empty.to_json(),
        "layers": [layer.to_json()],
        "subject": dataclasses.replace(subject.descriptor, artifact_type="").to_json(),
    }
    return Manifest(content=json.dumps(value).encode(), media_type=OCI_MANIFEST), blobs


def _put(layout: Layout, content: bytes, media_type: str) -> Descriptor:
    descriptor = Descriptor(media_type=media_type, digest=digest_of(content), size=len(content))
    layout.put_blob(descriptor, lambda start: [content[start:]])
    return descriptor
