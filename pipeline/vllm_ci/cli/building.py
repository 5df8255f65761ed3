"""What ``vllm-ci build`` does between its options and its output."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from vllm_ci.cli import options as shared
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import FailedError
from vllm_ci.domain.image_spec import Compression, ImageSpec
from vllm_ci.images import device, integrity, spec_file, store
from vllm_ci.images.build import BuiltImage, build
from vllm_ci.images.export import Output
from vllm_ci.images.spec_file import host_platform
from vllm_ci.images.store import Store
from vllm_ci.system import scratch, vcs


@dataclass(frozen=True, kw_only=True)
class Work:
    """A build that was asked for."""

    source: Path
    commit: Commit
    spec: ImageSpec
    output: Output
    threads: int


def opened(context: click.Context, revision: str, options: dict[str, Any]) -> Work:
    """What to build, from configuration and options.

    Raises:
        ConfigError: Configuration or spec is not valid.
        UsageError: There is no such commit or spec.
    """
    loaded = shared.loaded(context)
    commit = vcs.discover(vcs.root(loaded.folder), revision)
    if options.get("dirty") is not None:
        commit = replace(commit, dirty=bool(options["dirty"]))
    targets = tuple(part.strip() for part in (options.get("platform") or "").split(",") if part.strip())
    chosen = spec_of(context, options.get("image"), targets=targets)
    if options.get("compression"):
        chosen = chosen.changed(compression=Compression(options["compression"]))
    return Work(
        source=loaded.folder,
        commit=commit,
        spec=chosen,
        output=Output.parse(options.get("output") or ""),
        threads=options.get("threads") or 0,
    )


def spec_of(context: click.Context, name: str | None, *, targets: tuple[str, ...] = ()) -> ImageSpec:
    """The image spec that configuration and options ask for.

    Raises:
        ConfigError: Configuration or spec is not valid.
        UsageError: There is no such spec.
    """
    loaded = shared.loaded(context)
    section = loaded.config.image
    plain = spec_file.load(name or section.place(loaded.folder), targets=targets or section.platforms)
    return spec_file.check(plain.changed(**section.over(dict(plain.env), dict(plain.labels))))


def run(work: Work, *, progress: Callable[[str], None]) -> BuiltImage:
    """Build it, and export it where asked."""
    image = build(source=work.source, commit=work.commit, spec=work.spec, progress=progress, threads=work.threads)
    return work.output.export(image)


def check(work: Work, image: BuiltImage, *, progress: Callable[[str], None]) -> None:
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
        again = build(
            source=work.source, commit=work.commit, spec=work.spec, progress=progress, threads=work.threads, store=fresh
        )
    if again.ref.digest != image.ref.digest:
        pairs = zip(image.layers, again.layers, strict=True)
        other = [old.tier for old, new in pairs if old.digest != new.digest]
        raise FailedError(
            f"built again from nothing, the image is another one: {again.ref.digest}, not {image.ref.digest}",
            why=f"layers that differ: {', '.join(other) or 'none (config or manifest)'}",
            remedy="please report this with both digests: the same inputs have to give the same bytes",
        )


def push(work: Work, image: BuiltImage, repository: str, *, progress: Callable[[str], None]) -> int:
    """Push it; the bytes that were sent.

    Raises:
        RegistryError: The registry refused or broke off.
    """
    from vllm_ci.registry.access import Access
    from vllm_ci.registry.transfer import push as send

    tags = image.ref.tags if not work.commit.dirty else ()
    access = Access.from_environment().pushing_to(repository)
    sent = send(Store().layout, image.ref.digest, repository, tags, access=access)
    progress(f"pushed {sent.reference}: {sent.pushed_bytes / 1e3:,.1f} kB in {sent.seconds:.1f} s")
    return sent.pushed_bytes


def describe(work: Work, image: BuiltImage, *, repository: str = "", pushed_bytes: int = 0) -> dict[str, Any]:
    """The JSON object of ``vllm-ci build --json``."""
    return {
        "commit": {"sha": work.commit.sha, "dirty": work.commit.dirty},
        "image": {
            "reference": f"{repository}@{image.ref.digest}" if repository else image.ref.reference,
            "digest": image.ref.digest,
            "tags": list(image.ref.tags),
            "layout": str(image.layout),
            "manifests": image.manifests,
            "device": device.of(work.spec),
        },
        "seconds": round(image.seconds, 3),
        "layers": [
            {
                "tier": layer.tier,
                "digest": layer.digest,
                "size_bytes": layer.size_bytes,
                "built": layer.built,
                "platform": layer.platform,
                "reason": layer.reason,
            }
            for layer in image.layers
        ],
        "explain": list(image.explain),
        "pushed_bytes": pushed_bytes,
    }


def write_facts(folder: Path, image: BuiltImage, found: dict[str, Any]) -> None:
    """``build.json``, ``config.json`` (OCI image config) and ``manifest.json`` (owner to path to sha256), of this platform."""
    folder.mkdir(parents=True, exist_ok=True)
    own = host_platform()
    digest = image.manifests.get(own) or next(iter(image.manifests.values()))
    for name, value in (
        ("build.json", found),
        ("config.json", store.image_config(digest)),
        ("manifest.json", integrity.manifest(digest)),
    ):
        (folder / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
