"""A build that was asked for: of which commit, by which spec, and where the image goes besides the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import FailedError
from vllm_ci.domain.events import Emit, step
from vllm_ci.domain.image_spec import ImageSpec
from vllm_ci.images import build as builder
from vllm_ci.images.build import BuiltImage
from vllm_ci.images.export import Output
from vllm_ci.images.store import Store
from vllm_ci.system import scratch


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """A build that was asked for.

    Attributes:
        source: Folder that overlays are relative to, in a checkout of the commit.
        commit: What to build.
        spec: What the image is made of.
        output: Where the image goes besides the store.
        threads: Layers written at once; 0 is one for each processor.
        unpack: Also unpack the new layers while they are written, to run the image on this machine.
    """

    source: Path
    commit: Commit
    spec: ImageSpec
    output: Output = field(default_factory=Output)
    threads: int = 0
    unpack: bool = False


def build(request: BuildRequest, *, emit: Emit) -> BuiltImage:
    """Build the image, and export it where asked.

    Raises:
        BuildError: A part could not be fetched or built.
        ConfigError: Spec, locks or overlays do not fit together.
    """
    return request.output.export(_built(request, Store(), emit, unpack=request.unpack))


def check(request: BuildRequest, image: BuiltImage, *, emit: Emit) -> None:
    """Build once more from nothing but downloads, and compare.

    Raises:
        FailedError: The digest is another one.
    """
    store = Store()
    with scratch.folder("check-") as folder:
        fresh = Store(folder)
        for name in ("wheels", "debs"):
            (store.root / name).mkdir(exist_ok=True)
            (fresh.root / name).symlink_to(store.root / name)
        again = _built(request, fresh, emit)
    if again.ref.digest != image.ref.digest:
        pairs = zip(image.layers, again.layers, strict=True)
        other = [old.tier for old, new in pairs if old.digest != new.digest]
        raise FailedError(
            f"the second build gave another image: {again.ref.digest} instead of {image.ref.digest}",
            why=f"layers that differ: {', '.join(other) or 'none (config or manifest)'}",
            remedy="please report this with both digests: the same inputs have to give the same bytes",
        )


def push(request: BuildRequest, image: BuiltImage, repository: str, *, emit: Emit) -> int:
    """Push it, under its tags unless the tree is dirty; the number of bytes that were sent.

    Raises:
        RegistryError: The registry refused or broke off.
    """
    from vllm_ci.registry.access import Access
    from vllm_ci.registry.push_progress import PushProgress
    from vllm_ci.registry.transfer import push as send

    tags = image.ref.tags if not request.commit.dirty else ()
    access = Access.from_environment().pushing_to(repository)
    with step(emit, "push", repository) as done:
        sent = send(Store().layout, image.ref.digest, repository, tags, access=access, on_bytes=PushProgress(emit, "push"))
        done(f"{sent.reference}, {sent.pushed_bytes / 1e3:,.1f} kB sent")
    return sent.pushed_bytes


def _built(request: BuildRequest, store: Store, emit: Emit, *, unpack: bool = False) -> BuiltImage:
    return builder.build(
        source=request.source,
        commit=request.commit,
        spec=request.spec,
        emit=emit,
        threads=request.threads,
        store=store,
        unpack=unpack,
    )
