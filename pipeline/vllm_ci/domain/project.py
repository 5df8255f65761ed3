"""What a user's configuration asks for, apart from the image itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from vllm_ci.domain.stage import StageSpec


@dataclass(frozen=True, kw_only=True)
class TinyModel:
    """A Llama with random weights, made on the spot: everything that is not the model's wit can be tested with it.

    Attributes:
        vocabulary: Largest size of its vocabulary, in tokens.
        hidden_size: Width; ``hidden_size / heads`` is the size of a head (32, 64, 80, 96, 112, 128 ... are served).
        layers: Number of layers.
        heads: Query heads.
        kv_heads: Key and value heads.
        max_length: Longest sequence, in tokens.
        seed: Of the weights.
        quantization: ``int8`` stores the weights of linear layers as 8-bit integers (compressed-tensors, W8A8); empty: none.
        adapter: Make a LoRA adapter as well, in the folder ``adapter`` of the checkpoint.
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
        """As the program that makes it takes them: one JSON object."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Which model is served; exactly one of ``tiny``, ``path`` and ``name``.

    Attributes:
        served_name: What clients call it.
        tiny: Made on the spot.
        path: Folder with a checkpoint, relative to the configuration file or absolute.
        name: Reference on the model hub.
        revision: Commit of ``name`` on the hub.
    """

    served_name: str
    tiny: TinyModel | None = None
    path: str = ""
    name: str = ""
    revision: str = ""


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """How vLLM is served.

    Attributes:
        args: vLLM's own flags.
        env: Environment variables on top of the image's.
        secrets: Names of variables handed through from the caller's environment (a hub token).
        api_key_env: Name of the variable with the API key that the server asks for; empty: it asks for none.
        ready_timeout_s: Longest time to the first completion.
        stop_grace_s: Time that streams in flight get to end when it stops.
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
        model: Which model is served.
        server: How.
        stages: Which stages run, in this order.
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
    """Key of an output that is a function of ``parts`` alone: SHA-256, parts kept apart."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
