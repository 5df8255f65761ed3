"""The files of a checkpoint as a source of blobs, so that they are pushed like the layers of an image."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_ci.models.artifact import Model
from vllm_ci.models.files import Checkpoint
from vllm_ci.registry.errors import NotFoundError
from vllm_ci.registry.manifest import Manifest, digest_of

_CHUNK_BYTES = 1 << 20


class CheckpointSource:
    """A checkpoint and its manifest, as they are on this machine.

    Args:
        checkpoint: The files.
        model: Its manifest.
        config: Bytes of its configuration.
    """

    def __init__(self, checkpoint: Checkpoint, model: Model, config: bytes) -> None:
        self.name = "the checkpoint"
        self._model = model
        self._places = {each.digest: each.place for each in checkpoint.files}
        self._contents = {digest_of(config): config}

    def has_blob(self, digest: str) -> bool:
        """Whether a file has this digest."""
        return digest in self._places or digest in self._contents

    def read_blob(self, digest: str, start: int = 0) -> Iterator[bytes]:
        """A file's bytes from ``start``."""
        if digest in self._contents:
            yield self._contents[digest][start:]
            return
        with self._places[digest].open("rb") as stream:
            stream.seek(start)
            while piece := stream.read(_CHUNK_BYTES):
                yield piece

    def manifest(self, reference: str) -> Manifest:
        """The model's manifest.

        Raises:
            NotFoundError: Another one is asked for.
        """
        if reference != self._model.digest:
            raise NotFoundError(f"no manifest {reference} in {self.name}")
        return self._model.manifest
