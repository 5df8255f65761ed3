"""The files of a checkpoint: which are taken, what each of them is, and why some are refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from vllm_ci.domain.errors import UsageError
from vllm_ci.models import gguf, pickles, safetensors
from vllm_ci.models.gguf import GgufFacts
from vllm_ci.models.refusals import UnsafeModelError
from vllm_ci.models.safetensors import Weights

Kind = Literal["weight", "config", "doc", "code"]

_CONFIGS = (".json", ".model", ".tiktoken", ".jinja", ".bpe", ".vocab", ".yaml", ".yml")
_DOCS = (".md", ".rst", ".pdf")
_TEXTS = ("license", "licence", "notice", "readme", "copying", "use_policy", "authors")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".npz", ".h5", ".msgpack", ".keras")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\\]")
_MOST_FILES, _DEEPEST, _LONGEST_PATH = 10_000, 8, 512
_MOST_BYTES = 8 << 40
# What is no weight file is read by people and tokenizers.
_LARGEST_OTHER = 512 << 20
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A file of a checkpoint that was checked.

    Attributes:
        path: Within the checkpoint, with ``/``.
        place: On this machine.
        kind: What it is.
        size: In bytes.
        digest: Of its content.
    """

    path: str
    place: Path
    kind: Kind
    size: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose files were checked.

    Attributes:
        files: Sorted by path.
        weights: What its safetensors files hold, by path.
        gguf: What its GGUF file holds.
        left_out: Files that are not part of a model: hidden ones.
    """

    files: tuple[ModelFile, ...]
    weights: dict[str, Weights]
    gguf: GgufFacts | None = None
    left_out: tuple[str, ...] = ()

    def read(self, path: str) -> dict[str, object]:
        """A JSON file of it; empty when it is not there or not an object."""
        place = next((each.place for each in self.files if each.path == path), None)
        found = json.loads(place.read_bytes()) if place else None
        return found if isinstance(found, dict) else {}


def kind_of(path: str) -> Kind | None:
    """What a file with this name is; ``None`` when models have no such files."""
    name = PurePosixPath(path).name.lower()
    suffix = PurePosixPath(name).suffix
    if suffix in (".safetensors", ".gguf"):
        return "weight"
    if name.partition(".")[0] in _TEXTS or suffix in _DOCS:
        return "doc"
    if suffix in _CONFIGS or suffix == ".txt":
        return "config"
    return "code" if suffix == ".py" else None


def check(folder: Path, *, code: bool = False) -> Checkpoint:
    """The files of a checkpoint folder, each of them checked.

    Args:
        folder: Where it is.
        code: Take Python files as well; vLLM runs them only with ``--trust-remote-code``.

    Raises:
        UsageError: There is no such folder, or it holds no checkpoint.
        UnsafeModelError: A file is not safe to load, or not what its name says.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", remedy="name the folder of a checkpoint, or a file with --gguf FILE")
    found, left_out = [], []
    for path, place in _walk(folder, ""):
        if any(part.startswith(".") for part in path.split("/")):
            left_out.append(path)
            continue
        found.append((path, place, _kind(path, place, code=code)))
        if len(found) > _MOST_FILES:
            raise UnsafeModelError(f"{folder} holds more than {_MOST_FILES} files", remedy="name the folder of one checkpoint")
    _check_names([path for path, _, _ in found])
    weights = {path: safetensors.check(place) for path, place, _ in found if path.lower().endswith(".safetensors")}
    for path, place, _ in found:
        if path.lower().endswith(".json"):
            _check_json(path, place)
        elif path not in weights:
            _check_plain(path, place)
    if not weights:
        raise UsageError(
            f"{folder} holds no safetensors file", remedy="save the checkpoint as safetensors, or name a file with --gguf FILE"
        )
    made = Checkpoint(files=_hashed(found), weights=weights, left_out=tuple(left_out))
    _check_complete(made, folder)
    return made


def check_gguf(file: Path) -> Checkpoint:
    """A GGUF file as a checkpoint of one file.

    Raises:
        UsageError: There is no such file.
        UnsafeModelError: It is not a valid GGUF file.
    """
    if not file.is_file() or file.suffix.lower() != ".gguf":
        raise UsageError(f"{file} is not a GGUF file", remedy="name a file that ends with .gguf")
    _check_names([file.name])
    place = file.resolve()  # caches keep files under their digests, and links to them under their names
    return Checkpoint(files=_hashed([(file.name, place, "weight")]), weights={}, gguf=gguf.check(place))


def check_any(folder: Path, *, code: bool = False) -> Checkpoint:
    """A folder that holds a safetensors checkpoint, or nothing but one GGUF file among its weights.

    Raises:
        UsageError: It holds several GGUF files.
        UnsafeModelError: As of :func:`check`.
    """
    weights = [path for path, _ in _walk(folder, "") if kind_of(path) == "weight" and not path.startswith(".")]
    if weights and all(path.lower().endswith(".gguf") for path in weights):
        if len(weights) > 1:
            raise UsageError(
                f"there are {len(weights)} GGUF files: {', '.join(weights[:3])}",
                remedy="download one, then add it with --gguf FILE",
            )
        return check_gguf(folder / weights[0])
    return check(folder, code=code)


def _walk(folder: Path, above: str, depth: int = 0) -> Iterator[tuple[str, Path]]:
    """Regular files, sorted; anything else that is there is refused."""
    if depth > _DEEPEST:
        raise UnsafeModelError(f"{above} is more than {_DEEPEST} folders deep", remedy="name the folder of one checkpoint")
    for entry in sorted(os.scandir(folder), key=lambda each: each.name):
        path = f"{above}{entry.name}"
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from _walk(Path(entry.path), f"{path}/", depth + 1)
        elif stat.S_ISREG(mode):
            yield path, Path(entry.path)
        else:
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "a device, pipe or socket"
            raise UnsafeModelError(
                f"{path} is {kind}",
                why="a model is made of plain files: a link can lead out of its folder",
                remedy="copy the checkpoint with cp -rL, or remove it",
            )


def _kind(path: str, place: Path, *, code: bool) -> Kind:
    kind, size = kind_of(path), place.stat().st_size
    by_name = PurePosixPath(path).suffix.lower() in _PICKLES  # also LICENSE.npy, whose other half is a document's
    if kind is None or by_name:
        suspect = pickles.look(place)
        if suspect or by_name:
            raise _unsafe(path, suspect)
        raise UnsafeModelError(
            f"{path} is not a file of a checkpoint",
            why="weights (.safetensors), configuration, tokenizers and documents are taken",
            remedy="remove it from the folder",
        )
    if kind == "code" and not code:
        raise UnsafeModelError(
            f"{path} is code that would run where the model is loaded",
            why="vLLM runs it with --trust-remote-code",
            remedy="remove it, or take it after a review: --code",
        )
    if size > (_MOST_BYTES if kind == "weight" else _LARGEST_OTHER):
        raise UnsafeModelError(f"{path} has {size} bytes, more than such a file can have", remedy="check the file")
    return kind


def _unsafe(path: str, suspect: pickles.Suspect | None) -> UnsafeModelError:
    if suspect and suspect.kind == "archive":
        return UnsafeModelError(
            f"{path} is an archive: {suspect.detail}", why="models are plain files", remedy="remove it, or unpack it elsewhere"
        )
    return UnsafeModelError(
        f"{path} is a pickle or another format that runs code: {suspect.detail if suspect else 'by its name'}",
        why="loading such a file runs whatever it says",
        remedy="save the model as safetensors, as save_pretrained() of transformers does, and remove this file",
    )


def _check_names(paths: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for path in paths:
        if _CONTROL.search(path) or len(path) > _LONGEST_PATH or not path.isprintable():
            raise UnsafeModelError(f"{path!r} is not a name for a file of a model", remedy="rename it")
        if (other := seen.setdefault(path.casefold(), path)) != path:
            raise UnsafeModelError(f"{path} and {other} differ in case only", remedy="rename one: some file systems hold one")


def _check_json(path: str, place: Path) -> None:
    try:
        json.loads(place.read_bytes())
    except (ValueError, RecursionError) as error:
        suspect = pickles.look(place)
        if suspect:
            raise _unsafe(path, suspect) from error
        raise UnsafeModelError(f"{path} is not JSON: {error}", remedy="save or download the checkpoint again") from error


def _check_plain(path: str, place: Path) -> None:
    """Nothing that is loaded as a pickle hides behind another name."""
    if path.lower().endswith(".gguf"):
        gguf.check(place)
    elif suspect := pickles.look(place):
        raise _unsafe(path, suspect)


def _check_complete(found: Checkpoint, folder: Path) -> None:
    """A checkpoint in several files is whole: the files and tensors that its index names are there."""
    paths = {each.path for each in found.files}
    if not paths & {"config.json", "adapter_config.json"}:
        raise UsageError(f"{folder} has no config.json", remedy="name the folder of a checkpoint or of an adapter")
    for index in [path for path in paths if path.lower().endswith(".safetensors.index.json")]:
        named = found.read(index).get("weight_map")
        if not isinstance(named, dict):
            raise UnsafeModelError(f"{index} has no weight_map", remedy="save or download the checkpoint again")
        above = index.rpartition("/")[0]
        for tensor, file in named.items():
            path = f"{above}/{file}" if above else str(file)
            if path not in found.weights or tensor not in found.weights[path].tensors:
                raise UnsafeModelError(
                    f"{index} says that {path} holds {tensor}, and it does not",
                    why="a part of the checkpoint is missing",
                    remedy="save or download the checkpoint again",
                )


def _hashed(found: list[tuple[str, Path, Kind]]) -> tuple[ModelFile, ...]:
    def one(row: tuple[str, Path, Kind]) -> ModelFile:
        path, place, kind = row
        return ModelFile(path=path, place=place, kind=kind, size=place.stat().st_size, digest=digest_of_file(place))

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="hash") as pool:
        return tuple(sorted(pool.map(one, found), key=lambda each: each.path))


def digest_of_file(place: Path) -> str:
    """``sha256:`` digest of a file."""
    digest = hashlib.sha256()
    with place.open("rb") as stream:
        while piece := stream.read(_CHUNK_BYTES):
            digest.update(piece)
    return "sha256:" + digest.hexdigest()
