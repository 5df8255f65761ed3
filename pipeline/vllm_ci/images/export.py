"""An image as a folder or a file of its own."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from vllm_ci.domain.errors import UsageError
from vllm_ci.images import oci
from vllm_ci.images.build import BuiltImage
from vllm_ci.images.layer import MTIME
from vllm_ci.images.store import Store, disk
from vllm_ci.registry.layout import REF_NAME, Layout


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where an image goes besides the store.

    Attributes:
        kind: ``oci`` (a folder), ``oci-archive`` (a tar file), or empty.
        path: Which.
    """

    kind: str = ""
    path: Path = Path()

    @classmethod
    def parse(cls, text: str) -> Output:
        """From ``oci:FOLDER`` or ``oci-archive:FILE``.

        Raises:
            UsageError: It is neither.
        """
        if not text:
            return cls()
        kind, _, place = text.partition(":")
        if kind not in {"oci", "oci-archive"} or not place:
            raise UsageError(f"cannot write an image to {text}", remedy="write oci:FOLDER or oci-archive:FILE")
        return cls(kind=kind, path=Path(place).expanduser())

    def export(self, image: BuiltImage, *, store: Store | None = None) -> BuiltImage:
        """Write the image there; returns the image with its new location when that is a layout."""
        if not self.kind:
            return image
        store = store or Store()
        with disk(self.path, needed_bytes=sum(layer.size_bytes for layer in image.layers)):
            if self.kind == "oci":
                folder(store, image.ref.digest, self.path, image.ref.tags)
                return replace(image, layout=self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.path.parent, prefix=".part-") as part:
                folder(store, image.ref.digest, Path(part) / "layout", image.ref.tags)
                _archive(Path(part) / "layout", Path(part) / "archive")
                (Path(part) / "archive").replace(self.path)
        return image


def folder(store: Store, digest: str, path: Path, tags: Iterable[str]) -> None:
    """Make ``path`` an OCI image layout that holds one image; blobs are linked where the disk allows it."""
    layout = Layout(path)
    layout.prepare()
    descriptor = oci.described(store, digest)
    for found in oci.reachable(store, descriptor):
        layout.add_file(found, store.blob(found))
    layout.replace_index([{**descriptor, "annotations": {REF_NAME: tag}} for tag in tags] or [descriptor])


def _archive(source: Path, target: Path) -> None:
    """The layout as one deterministic tar file."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        for path in sorted(source.rglob("*")):
            info = archive.gettarinfo(path, str(path.relative_to(source)))
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mtime, info.mode = MTIME, 0o755 if path.is_dir() else 0o644
            # Blobs that are linked elsewhere are files like all others here.
            if path.is_file():
                info.type, info.linkname, info.size = tarfile.REGTYPE, "", path.stat().st_size
                with path.open("rb") as file:
                    archive.addfile(info, file)
            else:
                archive.addfile(info)
