"""Which files of a checkpoint are taken, and why others are refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest

from registries.models import checkpoint, gguf, safetensors
from vllm_ci.domain.errors import UsageError
from vllm_ci.models import artifact, files, pickles
from vllm_ci.models.refusals import UnsafeModelError


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo attacked",)


EVIL = {protocol: pickle.dumps(Attack(), protocol=protocol) for protocol in range(6)}


def refused(folder: Path) -> str:
    with pytest.raises((UnsafeModelError, UsageError)) as caught:
        files.check(folder)
    return str(caught.value)


def zipped(name: str, content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(name, content)
    return made.getvalue()


def tarred(name: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return made.getvalue()


def test_a_checkpoint_is_taken_with_what_each_file_is(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / ".git").mkdir()
    (folder / ".git/config").write_text("x")
    (folder / "LICENSE").write_text("free")
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_model.safetensors").write_bytes(safetensors({"l": b"1"}))
    found = files.check(folder)
    assert {each.path: each.kind for each in found.files} == {
        "LICENSE": "doc",
        "README.md": "doc",
        "adapter/adapter_model.safetensors": "weight",
        "config.json": "config",
        "model-00001-of-00002.safetensors": "weight",
        "model-00002-of-00002.safetensors": "weight",
        "model.safetensors.index.json": "config",
    }
    assert found.left_out == (".git/config",)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["pytorch_model.bin", "tokenizer.model", "vocab.txt", "notes.md", "config.json", "whatever"])
def test_a_pickle_is_refused_under_any_name_with_its_opcode(name: str, protocol: int, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / name).write_bytes(EVIL[protocol])
    said = refused(folder)
    assert name in said
    assert "opcode REDUCE at byte" in said
    assert "system" in said
    assert "safetensors" in said


def test_a_torch_archive_is_refused_with_the_opcode_of_its_pickle(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / "model.pt").write_bytes(zipped("archive/data.pkl", EVIL[2]))
    said = refused(folder)
    assert "archive/data.pkl in it: opcode REDUCE" in said


def test_a_pickle_without_calls_is_refused_as_well(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / "weights.bin").write_bytes(pickle.dumps({"a": [1, 2]}))
    assert "a pickle of" in refused(folder)


@pytest.mark.parametrize(
    "content", [zipped("../../etc/passwd", b"x"), tarred("/etc/passwd"), tarred("a/../../b")], ids=["zip", "absolute", "above"]
)
@pytest.mark.parametrize("name", ["extra.zip", "vocab.txt"])
def test_an_archive_with_paths_outside_is_refused_with_the_path(name: str, content: bytes, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / name).write_bytes(content)
    said = refused(folder)
    assert "lies outside the folder" in said
    assert name in said


@pytest.mark.parametrize("name", ["LICENSE.npy", "readme.bin", "vocab.txt", "model.npz", "notice.h5"])
@pytest.mark.parametrize("content", [b"\x93NUMPY\1\0\x10\0{'descr': '|O'}\n" + EVIL[4], b"\x89HDF\r\n\x1a\n\0\0"])
def test_arrays_that_can_hold_pickles_are_refused_under_any_name(name: str, content: bytes, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / name).write_bytes(content)
    assert f"{name} is a pickle or another format that runs code" in refused(folder)


def test_a_file_of_a_pickles_name_is_refused_whatever_it_is_called_before_the_dot(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / "LICENSE.pt").write_text("free")
    assert "LICENSE.pt is a pickle or another format that runs code: by its name" in refused(folder)


def test_names_in_capitals_are_checked_like_others(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / "EXTRA.SAFETENSORS").write_bytes(b"junk")
    assert "EXTRA.SAFETENSORS is not a valid safetensors file" in refused(folder)
    (folder / "EXTRA.SAFETENSORS").unlink()
    (folder / "Vocab.JSON").write_text("junk")
    assert "Vocab.JSON is not JSON" in refused(folder)


def test_texts_and_tokenizers_are_no_pickles(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / "merges.txt").write_text("cat\nfoo\nbar\n. .\n")
    (folder / "NOTICE").write_text(".")
    (folder / "USE_POLICY").write_text("chat models\nof us\nReally\n")
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    (folder / "vocab.bpe").write_text("(I1\nNot a pickle")
    assert len(files.check(folder).files) == 10


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x80\x02", b"\x80\x04\x95", b"(((((", b"." * 100, b"c\nR"])
def test_scanning_ends_for_any_bytes(content: bytes) -> None:
    pickles.scan(content)


def test_links_and_pipes_are_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / "vocab.json").symlink_to("/etc/passwd")
    assert "vocab.json is a symbolic link" in refused(folder)
    (folder / "vocab.json").unlink()
    (folder / "inner").symlink_to(tmp_path)
    assert "inner is a symbolic link" in refused(folder)
    (folder / "inner").unlink()
    os.mkfifo(folder / "vocab.json")
    assert "a device, pipe or socket" in refused(folder)


def test_code_is_refused_unless_it_is_asked_for(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / "modeling_x.py").write_text("print(1)")
    assert "modeling_x.py is code" in refused(folder)
    assert {each.kind for each in files.check(folder, code=True).files} == {"weight", "config", "doc", "code"}


def test_unknown_and_broken_files_are_refused_by_name(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / "x.exe").write_bytes(b"MZ")
    assert "x.exe is not a file of a checkpoint" in refused(folder)
    (folder / "x.exe").unlink()
    (folder / "tokenizer.json").write_text("{")
    assert "tokenizer.json is not JSON" in refused(folder)
    (folder / "tokenizer.json").write_text("[" * 100_000)
    assert "tokenizer.json is not JSON" in refused(folder)


def test_names_that_clash_or_cannot_be_shown_are_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / "Config.json").write_text("{}")
    assert "differ in case only" in refused(folder)
    (folder / "Config.json").unlink()
    (folder / "a\nb.json").write_text("{}")
    assert "not a name" in refused(folder)


def test_files_that_are_too_large_are_refused_without_being_read(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    with (folder / "tokenizer.json").open("wb") as stream:
        stream.truncate(1 << 40)
    assert "more than such a file can have" in refused(folder)


def test_a_checkpoint_with_a_missing_part_is_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors holds b, and it does not" in refused(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"z": "model-00001-of-00002.safetensors"}}))
    assert "holds z" in refused(folder)
    for content in ("[]", "{}", '{"weight_map": ["a"]}'):
        (folder / "model.safetensors.index.json").write_text(content)
        assert "model.safetensors.index.json has no weight_map" in refused(folder)


def test_a_text_that_cannot_be_written_is_no_reason_to_end(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    (folder / "config.json").write_text('{"model_type": "a\\ud800", "quantization_config": {"quant_method": "\\udfff"}}')
    made, _ = artifact.make(files.check(folder), "chat")
    assert (made.facts["family"], made.facts["quantization"]) == ("a?", "?")


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    assert "is not a folder" in refused(tmp_path / "nothing")
    (tmp_path / "README.md").write_text("x")
    assert "no safetensors file" in refused(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(safetensors({"a": b"1"}))
    assert "no config.json" in refused(tmp_path)


def test_a_gguf_file_is_a_checkpoint_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "m.Q8.gguf").write_bytes(gguf())
    assert [each.path for each in files.check_gguf(tmp_path / "m.Q8.gguf").files] == ["m.Q8.gguf"]
    (tmp_path / "link.gguf").symlink_to((tmp_path / "m.Q8.gguf").rename(tmp_path / "5f1c"))
    (linked,) = files.check_gguf(tmp_path / "link.gguf").files
    assert (linked.path, linked.size) == ("link.gguf", len(gguf()))
    (tmp_path / "bad.gguf").write_bytes(EVIL[2])
    with pytest.raises(UnsafeModelError):
        files.check_gguf(tmp_path / "bad.gguf")
    with pytest.raises(UsageError):
        files.check_gguf(tmp_path / "missing.gguf")
