"""Small checkpoints and a set-up for models in a folder."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from registries.evidence import NOW
from registries.releases import world_in
from vllm_ci.models import adding, files
from vllm_ci.models.adding import Added
from vllm_ci.models.evidence import Origin
from vllm_ci.models.ledger import ModelLedger
from vllm_ci.models.policy import AliasPolicy
from vllm_ci.models.setup import ModelSetup
from vllm_ci.registry.access import Access
from vllm_ci.registry.layout import Layout


def safetensors(tensors: Mapping[str, bytes], **header: object) -> bytes:
    """A file with one-dimensional U8 tensors; `header` replaces entries of its header."""
    entries: dict[str, object] = {}
    at = 0
    for name, content in tensors.items():
        entries[name] = {"dtype": "U8", "shape": [len(content)], "data_offsets": [at, at + len(content)]}
        at += len(content)
    text = json.dumps({**entries, **header}).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


def noise(seed: int, size: int = 4096) -> bytes:
    return hashlib.shake_256(str(seed).encode()).digest(size)


def checkpoint(folder: Path, seed: int = 1, *, size: int = 4096) -> Path:
    """A checkpoint in two parts; the first part is the same for all seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (folder / names[0]).write_bytes(safetensors({"a": noise(0, 10 * size)}))
    (folder / names[1]).write_bytes(safetensors({"b": noise(seed, size)}))
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_attention_heads": 4}))
    (folder / "README.md").write_text("# A model\n")
    return folder


def setup_in(
    folder: Path, *, repository: str = "", access: Access | None = None, aliases: Mapping[str, AliasPolicy] | None = None
) -> ModelSetup:
    """A set-up in `folder`; made again, it is the same one."""
    found = world_in(folder, repository=repository, access=access).setup
    return ModelSetup(
        repository=found.repository,
        subject=found.subject,
        ledger=ModelLedger(found.ledger),
        aliases=aliases if aliases is not None else {"champion": AliasPolicy(), "challenger": AliasPolicy()},
        signers=found.signers,
        key=found.key,
        access=found.access,
    )


def add(setup: ModelSetup, folder: Path, name: str = "chat", licence: str = "") -> Added:
    """Add the checkpoint in `folder`."""
    return adding.add(setup, name, files.check(folder), Origin(source="file:checkpoint"), licence=licence, now=NOW)


def unsigned(setup: ModelSetup) -> ModelSetup:
    """The same for someone who trusts nobody."""
    return replace(setup, signers={})


def blob(setup: ModelSetup, digest: str) -> Path:
    """The file that holds a blob of a repository in a folder."""
    place = Layout(Path(setup.repository.removeprefix("oci:"))).find(digest)
    assert place is not None
    return place


def gguf(
    tensors: Mapping[str, int] | None = None, *, version: int = 3, tail: int = 0, moved: Mapping[str, int] | None = None
) -> bytes:
    """A file with one F32 tensor for each (name, elements); `moved` has other offsets than those where tensors are."""
    given = {"a": 8} if tensors is None else tensors

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    made = b"GGUF" + struct.pack("<IQQ", version, len(given), 2)
    made += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    made += text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("x") + text("y")
    at = 0
    for name, count in given.items():
        made += text(name) + struct.pack("<IQIQ", 1, count, 0, (moved or {}).get(name, at))
        at += -(-count * 4 // 32) * 32
    made += b"\0" * (-len(made) % 32)
    return made + b"\1" * (at + tail)
