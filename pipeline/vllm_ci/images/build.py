"""From a spec and a commit to an image in the store: plan, fetch what is missing, write layers, assemble the image."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.events import Emit, ignore
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.image_spec import ImageSpec
from vllm_ci.images import materials, oci, prune
from vllm_ci.images.assemble import AssembledLayer, Assembler
from vllm_ci.images.store import Store

# Layers that hold the commit's files.
_COMMIT_TIERS = ("commit", "metadata")


@dataclass(frozen=True, kw_only=True)
class LayerInfo:
    """A layer of a built image.

    Attributes:
        tier: Name of its tier.
        digest: Of its compressed bytes.
        size_bytes: Of its compressed bytes.
        built: It was made now; false when it was known.
        platform: Platform of the image it belongs to.
        reason: Why it was made, or why not.
        seconds: How long making it took.
    """

    tier: str
    digest: str
    size_bytes: int
    built: bool
    platform: str = ""
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class BuiltImage:
    """An image in a layout.

    Attributes:
        ref: Name, digest and tags.
        layout: OCI image layout that holds it.
        layers: Its layers, lowest first, platform by platform.
        seconds: How long all took.
        explain: How each part was obtained, one line each.
        manifests: Digest of the manifest by platform.
    """

    ref: ImageRef
    layout: Path
    layers: tuple[LayerInfo, ...]
    seconds: float
    explain: tuple[str, ...]
    manifests: dict[str, str]


def build(
    *,
    source: Path,
    commit: Commit,
    spec: ImageSpec,
    emit: Emit = ignore,
    store: Store | None = None,
    threads: int = 0,
    unpack: bool = False,
) -> BuiltImage:
    """Build the image of a commit for all targets of ``spec``.

    Args:
        source: Folder that overlays are relative to, in a checkout of the commit.
        commit: What to build; a dirty one is built from the work tree.
        spec: What the image is made of.
        emit: Told of each step, from several threads; of nothing where all is known.
        store: Where layers are kept; ``VLLM_CI_HOME`` by default.
        threads: How many layers are written at once; as many as there are processors by default.
        unpack: Also unpack the new layers for :mod:`vllm_ci.images.tree`, while they are written.

    Raises:
        BuildError: A part could not be fetched or built.
        ConfigError: Spec, locks or overlays do not fit together.
    """
    started = time.monotonic()
    store = store or Store()
    store.prepare()
    prune.sweep(store)
    images: dict[str, dict[str, Any]] = {}
    layers: list[LayerInfo] = []
    explain: list[str] = []
    made_of = materials.BuiltFrom.of_spec(spec)
    with (
        store.in_use(),
        Assembler(spec=spec, store=store, threads=threads or os.cpu_count() or 1, emit=emit, unpack=unpack) as assembler,
    ):
        for platform in spec.targets:
            contents = assembler.contents(source, commit, platform)
            made = assembler.layers(contents)
            images[platform] = oci.image(
                store,
                spec=spec,
                commit=commit,
                platform=platform,
                layers=[item.facts for item in made],
                plans=contents.plans,
                wheels=contents.wheels,
                under=contents.under,
                vllm_commit=contents.vllm_commit,
            )
            brought = [item.facts["digest"] for item in made if item.plan.tier in _COMMIT_TIERS]
            made_of = made_of.with_platform(store, contents.wheels, contents.debs, brought)
            layers += [_info(item, platform) for item in made]
            explain += [*contents.explain, *(f"{item.plan.tier}: {item.reason}" for item in made)]
        final = next(iter(images.values())) if len(images) == 1 else oci.index(store, images, commit)
        tag = spec.tag(commit.sha + ("-dirty" if commit.dirty else ""))
        materials.keep(store, final["digest"], made_of)
        store.tag(final, (f"{spec.repository}:{tag}",))
    return BuiltImage(
        ref=ImageRef(repository=spec.repository, digest=final["digest"], tags=(tag,)),
        layout=store.layout,
        layers=tuple(layers),
        seconds=time.monotonic() - started,
        explain=tuple(explain),
        manifests={platform: item["digest"] for platform, item in images.items()},
    )


def _info(item: AssembledLayer, platform: str) -> LayerInfo:
    return LayerInfo(
        tier=item.plan.tier,
        digest=item.facts["digest"],
        size_bytes=item.facts["size_bytes"],
        built=bool(item.seconds),
        platform=platform,
        reason=item.reason,
        seconds=item.seconds,
    )
