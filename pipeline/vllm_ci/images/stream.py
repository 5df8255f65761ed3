"""The tar in a layer blob, whatever it is compressed with, read to its end and checked."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self, cast

from vllm_ci.domain.errors import BuildError

_CHUNK = 1 << 20
_ZSTD = b"\x28\xb5\x2f\xfd"


@contextmanager
def tar_stream(blob: Path, *, diff_id: str = "") -> Iterator[tarfile.TarFile]:
    """The tar in a layer blob; what it is compressed with is told by its first bytes, as container engines do.

    Args:
        blob: The layer.
        diff_id: What the tar has to hash to, checked at its end; empty when that is not known.

    Raises:
        BuildError: It is not here, is no tar, is damaged, or has another hash.
    """
    try:
        with blob.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            plain = _Plain(_decompressed(file, start), hashed=bool(diff_id))
            # tarfile asks for nothing but read().
            source = cast("IO[bytes]", plain)
            with tarfile.open(fileobj=source, mode="r|", bufsize=_CHUNK, tarinfo=Strict, errors="surrogateescape") as archive:
                yield archive
            if diff_id:
                plain.check(diff_id, blob.name)
    except FileNotFoundError as error:
        if error.filename != str(blob):
            raise
        raise BuildError(f"a layer is missing: {blob.name[:12]}", remedy="build the image again: vllm-ci build") from error
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise BuildError(
            f"layer {blob.name[:12]} is damaged",
            why=str(error),
            remedy="run vllm-ci cache prune and build again; if it is a layer of base.image, that image itself is damaged",
        ) from error


class Strict(tarfile.TarInfo):
    """An invalid header is an error at any position: tarfile takes one that is not the first for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str | None, errors: str) -> Self:  # noqa: D102
        try:
            found = super().frombuf(buf, encoding or "utf-8", errors)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"not a tar header: {error}") from error
        if found.size < 0:
            raise tarfile.ReadError(f"{found.name!r} has a negative size")
        return found


class _Plain:
    """Decompressed bytes, with their hash; a decompressor's own error becomes one of a damaged tar."""

    def __init__(self, source: Any, *, hashed: bool) -> None:
        self._source = source
        self._hash = hashlib.sha256() if hashed else None

    def read(self, size: int) -> bytes:
        """Bytes of the tar."""
        try:
            piece: bytes = self._source.read(size)
        except Exception as error:
            raise tarfile.ReadError(f"cannot be decompressed: {error}") from error
        if self._hash is not None:
            self._hash.update(piece)
        return piece

    def check(self, diff_id: str, name: str) -> None:
        """Read what follows the archive's end, and compare the hash of all."""
        assert self._hash is not None  # noqa: S101
        while self.read(_CHUNK):
            pass
        if f"sha256:{self._hash.hexdigest()}" != diff_id:
            raise BuildError(
                f"layer {name[:12]} is not the one that the image's configuration names",
                why=f"its tar hashes to sha256:{self._hash.hexdigest()}, not to {diff_id}",
                remedy="do not use this image; it has to be built again",
            )


def _decompressed(file: IO[bytes], start: bytes) -> Any:
    if start.startswith(b"\x1f\x8b"):
        from isal import igzip

        return igzip.IGzipFile(fileobj=file, mode="rb")  # type: ignore[no-untyped-call]
    # Frames to be skipped may come first (RFC 8878, 3.1.2).
    if start == _ZSTD or (start[1:] == b"\x2a\x4d\x18" and 0x50 <= start[0] <= 0x5F):
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    return file
