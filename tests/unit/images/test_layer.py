from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vllm_ci.domain.errors import BuildError
from vllm_ci.domain.image_spec import Compression
from vllm_ci.images import layer
from vllm_ci.images.entries import Archive, ArchiveMember, Deflated, Entry, Inline, with_parents


@dataclass(frozen=True)
class Sliced:
    """Content that comes in pieces of a given size."""

    content: bytes
    piece: int

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def chunks(self) -> Iterator[bytes]:
        for start in range(0, len(self.content), self.piece):
            yield self.content[start : start + self.piece]

    def deflated(self) -> Deflated | None:
        return None


def members(path: Path) -> dict[str, bytes | None]:
    with gzip.open(path) as plain, tarfile.open(fileobj=io.BytesIO(plain.read())) as archive:
        return {
            member.name: file.read() if member.isfile() and (file := archive.extractfile(member)) else None
            for member in archive
        }


def zipped(path: Path, content: bytes) -> ArchiveMember:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", content)
    opened = Archive(path)
    return ArchiveMember(opened, opened.members[0])


NOISE = random.Random(1).randbytes(3_000_000)


def test_the_way_content_is_sliced_does_not_show(tmp_path: Path) -> None:
    written = [
        layer.write([Entry(path="x", content=Sliced(NOISE, piece))], tmp_path / str(piece), Compression.GZIP)
        for piece in (1000, 65536, 1 << 20, 10**7)
    ]
    assert len({item.digest for item in written}) == 1


@pytest.mark.parametrize("size", [10, layer.CARRY_BYTES, 2_500_000])
def test_files_of_wheels_keep_their_content_whether_carried_or_compressed(tmp_path: Path, size: int) -> None:
    content = (NOISE + bytes(3_000_000))[2_900_000:][:size]
    written = layer.write(
        [Entry(path="a", content=Inline(b"before")), Entry(path="b", content=zipped(tmp_path / "w.zip", content))],
        tmp_path / "layer",
        Compression.GZIP,
    )
    assert members(tmp_path / "layer") == {"a": b"before", "b": content}
    assert written.size_bytes == (tmp_path / "layer").stat().st_size
    assert written.digest == f"sha256:{hashlib.sha256((tmp_path / 'layer').read_bytes()).hexdigest()}"
    plain = gzip.decompress((tmp_path / "layer").read_bytes())
    assert written.diff_id == f"sha256:{hashlib.sha256(plain).hexdigest()}"
    assert written.unpacked_bytes == len(plain)


def test_a_carried_file_is_the_very_stream_of_the_wheel(tmp_path: Path) -> None:
    member = zipped(tmp_path / "w.zip", NOISE)
    layer.write([Entry(path="x", content=member)], tmp_path / "layer", Compression.GZIP)
    assert b"".join(member.archive.raw(member.info)) in (tmp_path / "layer").read_bytes()


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    member = zipped(tmp_path / "w.zip", NOISE)
    content = bytearray((tmp_path / "w.zip").read_bytes())
    content[1_000_000] ^= 1
    (tmp_path / "w.zip").write_bytes(content)
    with pytest.raises((BuildError, Exception), match=r"damaged|invalid|rror"):
        layer.write([Entry(path="x", content=member)], tmp_path / "layer", Compression.GZIP)


def test_zstd_layers_do_not_depend_on_slices_either(tmp_path: Path) -> None:
    digests = {
        layer.write([Entry(path="x", content=Sliced(NOISE, piece))], tmp_path / str(piece), Compression.ZSTD).diff_id
        for piece in (1000, 1 << 20)
    }
    assert len(digests) == 1


def test_long_names_links_and_folders_survive(tmp_path: Path) -> None:
    entries = with_parents(
        [
            Entry(path="a/" + "long" * 60 + "/é", content=Inline(b"x")),
            Entry(path="a/link", mode=0o777, link="../" + "far" * 50),
            Entry(path="tmp", mode=0o1777, folder=True),
        ]
    )
    layer.write(entries, tmp_path / "layer", Compression.GZIP)
    with tarfile.open(tmp_path / "layer") as archive:
        found = {member.name: member for member in archive}
    assert "a/" + "long" * 60 + "/é" in found
    assert found["a/link"].linkname == "../" + "far" * 50
    assert found["tmp"].mode == 0o1777
    assert {member.mtime for member in found.values()} == {layer.MTIME}


def test_one_path_twice_in_a_layer_is_refused() -> None:
    with pytest.raises(BuildError, match="is in one layer twice"):
        with_parents([Entry(path="x", content=Inline(b"1")), Entry(path="x", content=Inline(b"2"))])
