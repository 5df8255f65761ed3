"""Images of hand-made layers, as an OCI image layout that any tool reads."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_ci.images.spec_file import host_platform

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"


@dataclass(frozen=True, kw_only=True)
class Item:
    """A member of a layer to be: by its tar type, ``""`` for a file."""

    name: str
    kind: str = "file"
    content: bytes = b""
    link: str = ""
    mode: int = 0o644
    pax: dict[str, str] = field(default_factory=dict)


TYPES = {
    "file": tarfile.REGTYPE,
    "folder": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE,
    "device": tarfile.CHRTYPE,
    "pipe": tarfile.FIFOTYPE,
}


def file(name: str, content: bytes = b"x", mode: int = 0o644) -> Item:
    return Item(name=name, content=content, mode=mode)


def folder(name: str) -> Item:
    return Item(name=name, kind="folder", mode=0o755)


def link(name: str, target: str) -> Item:
    return Item(name=name, kind="link", link=target, mode=0o777)


def hard(name: str, target: str) -> Item:
    return Item(name=name, kind="hard", link=target)


def tar(items: Sequence[Item], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    """The items as a tar, in their order."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
        for item in items:
            info = tarfile.TarInfo(item.name)
            info.type, info.linkname, info.mode, info.size = TYPES[item.kind], item.link, item.mode, len(item.content)
            info.pax_headers = dict(item.pax)
            archive.addfile(info, io.BytesIO(item.content))
    return output.getvalue()


def packed(content: bytes, how: str) -> bytes:
    """A tar compressed in one of the ways of layers: ``""``, ``gzip``, ``zstd``."""
    if how == "zstd":
        import zstandard

        return zstandard.ZstdCompressor().compress(content)
    return gzip.compress(content, mtime=0) if how == "gzip" else content


@dataclass(kw_only=True)
class Layout:
    """An image layout on disk."""

    path: Path

    @property
    def blobs(self) -> Path:
        return self.path / "blobs" / "sha256"

    def put(self, content: bytes, media_type: str) -> dict[str, Any]:
        """Keep a blob; its descriptor."""
        name = hashlib.sha256(content).hexdigest()
        self.blobs.mkdir(parents=True, exist_ok=True)
        (self.blobs / name).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(content)}

    def image(
        self,
        tars: Sequence[bytes],
        *,
        compression: str = "gzip",
        docker: bool = False,
        history: list[dict[str, Any]] | None = None,
        env: Sequence[str] = (),
        tag: str = "latest",
    ) -> str:
        """Write an image of layers; its digest."""
        system, _, architecture = host_platform().partition("/")
        config: dict[str, Any] = {
            "architecture": architecture,
            "os": system,
            "config": {"Env": list(env)},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in tars]},
        }
        if history is not None:
            config["history"] = history
        suffix = f"{'.' if docker else '+'}{compression}" if compression else ""
        layer = f"{DOCKER}.image.rootfs.diff.tar{suffix}" if docker else f"{OCI}.layer.v1.tar{suffix}"
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{DOCKER}.distribution.manifest.v2+json" if docker else f"{OCI}.manifest.v1+json",
            "config": self.put(
                json.dumps(config).encode(), f"{DOCKER}.container.image.v1+json" if docker else f"{OCI}.config.v1+json"
            ),
            "layers": [self.put(packed(each, compression), layer) for each in tars],
        }
        found = self.put(json.dumps(manifest).encode(), str(manifest["mediaType"]))
        named = {**found, "annotations": {"org.opencontainers.image.ref.name": tag}}
        (self.path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (self.path / "index.json").write_text(
            json.dumps({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [named]})
        )
        return str(found["digest"])
