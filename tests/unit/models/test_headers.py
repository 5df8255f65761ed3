"""Headers of weight files: what is accepted covers the file, and no bytes make the check crash."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registries.models import gguf as gguf_bytes
from registries.models import safetensors as safetensors_bytes
from vllm_ci.models import gguf, safetensors
from vllm_ci.models.refusals import UnsafeModelError

TWO = {"a": b"12345678", "b": b"abcd"}


def written(folder: Path, content: bytes, name: str = "model.safetensors") -> Path:
    place = folder / name
    place.write_bytes(content)
    return place


def entry(begin: object, end: object, *, dtype: object = "U8", shape: object = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [8] if shape is None else shape, "data_offsets": [begin, end]}


def test_a_valid_file_is_counted(tmp_path: Path) -> None:
    found = safetensors.check(written(tmp_path, safetensors_bytes(TWO, __metadata__={"format": "pt"})))
    assert found.tensors == {"a", "b"}
    assert found.parameters == 12


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"a": entry(4, 12)}, "leaves 4 bytes"),
        ({"b": {"dtype": "U8", "shape": [8], "data_offsets": [4, 12]}}, "overlaps"),
        ({"b": {"dtype": "U8", "shape": [2], "data_offsets": [8, 10]}}, "take 10 bytes, and 12"),
        ({"b": {"dtype": "U8", "shape": [400], "data_offsets": [8, 408]}}, "take 408 bytes, and 12"),
        ({"a": entry(0, 8, dtype="PICKLE")}, "unknown data type"),
        ({"a": entry(0, 8, dtype="F32")}, "does not fit"),
        ({"a": entry(0, 8, shape=[-8])}, "not lists of sizes"),
        ({"a": entry(0, 8, shape=[1 << 70])}, "not lists of sizes"),
        ({"a": entry(0, 8, shape=[True])}, "not lists of sizes"),
        ({"a": entry(8, 0)}, "does not fit"),
        ({"a": entry("0", 8)}, "not lists of sizes"),
        ({"a": [1]}, "exactly dtype"),
        ({"__metadata__": {"x": 1}}, "__metadata__"),
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(changed: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeModelError) as caught:
        safetensors.check(written(tmp_path, safetensors_bytes(TWO, **changed)))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 100) + b"{}",
        struct.pack("<Q", 10) + b'{"a":1}   ',
        safetensors_bytes(TWO) + b"x",
        safetensors_bytes(TWO)[:-1],
        struct.pack("<Q", 20) + b'{"a":{},"a":{},"b":0',
        struct.pack("<Q", 200_000) + b'{"a":' + b"[" * 199_995,
        struct.pack("<Q", 4) + "{}".encode("utf-16-le"),
        struct.pack("<Q", 8) + "{}".encode("utf-32-le"),
    ],
)
def test_broken_files_are_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UnsafeModelError):
        safetensors.check(written(tmp_path, content))


def test_a_tensor_named_twice_is_refused(tmp_path: Path) -> None:
    text = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    with pytest.raises(UnsafeModelError, match="safetensors"):
        safetensors.check(written(tmp_path, struct.pack("<Q", len(text)) + text + b"x"))


@given(at=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 60))
def test_a_changed_byte_gives_a_refusal_or_a_file_that_is_covered(
    at: int, value: int, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(safetensors_bytes(TWO))
    content[at % len(content)] = value
    del content[len(content) - cut :]
    place = written(tmp_path_factory.getbasetemp(), bytes(content), "changed.safetensors")
    with contextlib.suppress(UnsafeModelError):
        assert safetensors.check(place).parameters <= len(content)


def test_a_valid_gguf_file_is_read(tmp_path: Path) -> None:
    found = gguf.check(written(tmp_path, gguf_bytes({"a": 8, "b": 5}), "m.gguf"))
    assert found.values["general.architecture"] == "llama"
    assert found.parameters == 13
    assert found.types == {"F32": 13}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"GGML" + gguf_bytes()[4:],
        gguf_bytes(version=1),
        gguf_bytes({"a": 100})[:-20],
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 60),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 9, 1 << 25) * 9,
    ],
)
def test_broken_gguf_files_are_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UnsafeModelError, match="GGUF"):
        gguf.check(written(tmp_path, content, "m.gguf"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gguf_bytes({"a": 8, "b": 5}, tail=4096), "take 52 bytes, and 4160"),
        (gguf_bytes({"a": 8, "b": 5}, tail=32), "take 52 bytes, and 96"),
        (gguf_bytes({"a": 8, "b": 8, "c": 8}, moved={"c": 32}), "overlaps the tensor before it"),
        (gguf_bytes({"a": 8, "b": 8}, moved={"b": 96}, tail=64), "leaves 64 bytes before it to no tensor"),
        (gguf_bytes({"a": 8}, moved={"a": 32}, tail=32), "leaves 32 bytes before it to no tensor"),
    ],
)
def test_a_gguf_file_that_its_tensors_do_not_cover_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeModelError) as caught:
        gguf.check(written(tmp_path, content, "m.gguf"))
    assert said in str(caught.value)


@pytest.mark.parametrize("cut", [0, 1, 12])
def test_the_last_tensor_of_a_gguf_file_need_not_be_filled_up(cut: int, tmp_path: Path) -> None:
    content = gguf_bytes({"a": 8, "b": 5})
    assert gguf.check(written(tmp_path, content[: len(content) - cut], "m.gguf")).parameters == 13


@given(at=st.integers(4, 300), value=st.binary(min_size=1, max_size=8))
def test_changed_gguf_bytes_never_crash_the_check(at: int, value: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = bytearray(gguf_bytes({"a": 8, "b": 5}))
    at %= len(content)
    content[at : at + len(value)] = value
    with contextlib.suppress(UnsafeModelError):
        gguf.check(written(tmp_path_factory.getbasetemp(), bytes(content), "changed.gguf"))
