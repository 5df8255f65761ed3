"""A model as an OCI artifact (CNCF ModelPack: ``model-spec``, ``docs/spec.md`` and ``docs/config.md``).

Every file is a layer of its own, as it is on disk: the layer's digest is the file's, so files are shared by all versions, and
whoever has the file can check it. The same files and facts give the same manifest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from vllm_ci.models.files import Checkpoint, Kind, ModelFile, kind_of
from vllm_ci.models.refusals import UnsafeModelError
from vllm_ci.registry.manifest import OCI_MANIFEST, Descriptor, Manifest, digest_of

ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
LAYER_TYPES: Mapping[Kind, str] = {
    "weight": "application/vnd.cncf.model.weight.v1.raw",
    "config": "application/vnd.cncf.model.weight.config.v1.raw",
    "doc": "application/vnd.cncf.model.doc.v1.raw",
    "code": "application/vnd.cncf.model.code.v1.raw",
}
_FILE_PATH, _TITLE = "org.cncf.model.filepath", "org.opencontainers.image.title"
_PRECISIONS = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "F64": "fp64", "I8": "int8"}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A file of a model in the repository.

    Attributes:
        path: Within the model.
        kind: What it is.
        size: In bytes.
        digest: Of its content.
    """

    path: str
    kind: Kind
    size: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model as its manifest describes it.

    Attributes:
        manifest: It.
        config: Its configuration (ModelPack's ``config.md``).
        layers: Its files, by path.
    """

    manifest: Manifest
    config: Mapping[str, Any]
    layers: tuple[Layer, ...]

    @property
    def digest(self) -> str:
        """Identity of the model."""
        return self.manifest.digest

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(each.size for each in self.layers)

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of it, flat."""
        return {**self.config.get("config", {}), **self.config.get("descriptor", {})}

    @property
    def gguf(self) -> str:
        """Path of its GGUF file, when that is all it has."""
        weights = [each.path for each in self.layers if each.kind == "weight"]
        return weights[0] if len(weights) == 1 and weights[0].lower().endswith(".gguf") else ""


def make(checkpoint: Checkpoint, name: str, *, source: str = "", revision: str = "", licence: str = "") -> tuple[Model, bytes]:
    """The artifact of a checkpoint, and the bytes of its configuration.

    Args:
        checkpoint: Its files.
        name: Of the model.
        source: URL that it comes from, empty for a folder.
        revision: Commit there.
        licence: SPDX expression; by default what the files say themselves.
    """
    config = _config(checkpoint, name, source=source, revision=revision, licence=licence)
    content = _canonical(config)
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": Descriptor(media_type=CONFIG_TYPE, digest=digest_of(content), size=len(content)).to_json(),
        "layers": [_layer(each).to_json() for each in checkpoint.files],
    }
    manifest = Manifest(content=_canonical(value), media_type=OCI_MANIFEST)
    return parse(manifest, content), content


def parse(manifest: Manifest, config: bytes) -> Model:
    """The model that a manifest describes.

    Raises:
        UnsafeModelError: It is no model, or a file of it would be written outside its folder.
    """
    if manifest.json.get("artifactType") != ARTIFACT_TYPE:
        raise UnsafeModelError(
            f"{manifest.digest[:19]} is not a model", why=f"a model is of type {ARTIFACT_TYPE}", remedy="check the digest"
        )
    layers = [_parsed(Descriptor.from_json(each)) for each in manifest.json.get("layers") or ()]
    paths = [each.path.casefold() for each in layers]
    folders = {str(above) for path in paths for above in PurePosixPath(path).parents}
    if len(set(paths)) != len(paths) or folders & set(paths):
        raise UnsafeModelError(f"{manifest.digest[:19]} lists two files at one path", remedy="do not use it")
    value = _loaded(config)
    if not all(isinstance(value.get(key), dict) for key in ("config", "descriptor")):
        raise UnsafeModelError(f"the configuration of {manifest.digest[:19]} cannot be read", remedy="do not use it")
    return Model(manifest=manifest, config=value, layers=tuple(sorted(layers, key=lambda each: each.path)))


def _loaded(config: bytes) -> dict[str, Any]:
    try:
        value = json.loads(config)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _parsed(layer: Descriptor) -> Layer:
    path = layer.annotations.get(_FILE_PATH) or layer.annotations.get(_TITLE) or ""
    kind = next((kind for kind, media in LAYER_TYPES.items() if media == layer.media_type), None)
    if kind is None:
        raise UnsafeModelError(
            f"layer {layer.digest[:19]} has the type {layer.media_type}",
            why="models whose files are raw layers are supported; one in an archive would have to be unpacked",
            remedy="unpack the model with the tool that made it, and add the folder: vllm-ci model add",
        )
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or str(pure) != path or "\\" in path or not path.isprintable():
        raise UnsafeModelError(
            f"layer {layer.digest[:19]} would be written to {path!r}",
            why="that is outside the model's folder",
            remedy="do not use it",
        )
    if (kind_of(path) == "weight") != (kind == "weight"):
        raise UnsafeModelError(f"{path} is not a {kind} file by its name", remedy="do not use it")
    return Layer(path=path, kind=kind, size=layer.size, digest=layer.digest)


def _layer(file: ModelFile) -> Descriptor:
    annotations = {_FILE_PATH: file.path, _TITLE: file.path}
    return Descriptor(media_type=LAYER_TYPES[file.kind], digest=file.digest, size=file.size, annotations=annotations)


def _config(checkpoint: Checkpoint, name: str, *, source: str, revision: str, licence: str) -> dict[str, Any]:
    gguf, settings = checkpoint.gguf, checkpoint.read("config.json") or checkpoint.read("adapter_config.json")
    values = gguf.values if gguf else {}
    types: dict[str, int] = dict(gguf.types) if gguf else {}
    for each in checkpoint.weights.values():
        for kind, count in each.types.items():
            types[kind] = types.get(kind, 0) + count
    main = max(types, key=lambda kind: types[kind], default="")
    quantized = settings.get("quantization_config")
    method = quantized.get("quant_method") if isinstance(quantized, dict) else main if gguf and main not in _PRECISIONS else ""
    licence = licence or str(values.get("general.license") or "")
    descriptor = {
        "name": name,
        "family": _plain(settings.get("model_type") or values.get("general.architecture") or ""),
        "sourceURL": source,
        "revision": revision,
        "licenses": [licence] if licence else [],
    }
    config = {
        "architecture": "transformer" if settings.get("num_attention_heads") or gguf else "",
        "format": "gguf" if gguf else "safetensors",
        "paramSize": _scaled(sum(types.values())),
        "precision": _PRECISIONS.get(main, main.lower()),
        "quantization": _plain(method or ""),
    }
    return {
        "descriptor": {key: value for key, value in descriptor.items() if value},
        "config": {key: value for key, value in config.items() if value},
        "modelfs": {"type": "layers", "diffIds": [each.digest for each in checkpoint.files]},
    }


def _plain(value: object) -> str:
    """A text that can be written: JSON can name half of a surrogate pair, UTF-8 cannot."""
    return str(value).encode("utf-8", "replace").decode()


def _scaled(count: int) -> str:
    """As ModelPack writes numbers of parameters: ``6.7B``."""
    for prefix, scale in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if count >= scale:
            return f"{count / scale:.1f}{prefix}"
    return f"{count / 1000:.1f}K"


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
