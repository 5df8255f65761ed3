"""What ``vllm-ci build`` does between its options and its output."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from vllm_ci import vcs
from vllm_ci.cli import options as shared
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.spec import Compression, ImageSpec
from vllm_ci.images import integrity, spec, store
from vllm_ci.images.build import BuiltImage, build
from vllm_ci.images.spec import host_platform


@dataclass(frozen=True, kw_only=True)
class Work:
    """A build that was asked for."""

    source: Path
    commit: Commit
    spec: ImageSpec
    output: str
    threads: int


def opened(context: click.Context, revision: str, options: dict[str, Any]) -> Work:
    """What to build, from configuration and options.

    Raises:
        ConfigError: Configuration or spec is not valid.
        UsageError: There is no such commit or spec.
    """
    loaded = shared.loaded(context)
    section = loaded.config.image
    checkout = vcs.root(loaded.folder)
    commit = vcs.discover(checkout, revision)
    if options.get("dirty") is not None:
        commit = replace(commit, dirty=bool(options["dirty"]))
    name = options.get("image") or section.place(loaded.folder)
    targets = tuple(part.strip() for part in (options.get("platform") or "").split(",") if part.strip()) or section.platforms
    plain = spec.load(name, targets=targets)
    changed = section.over(dict(plain.env), dict(plain.labels))
    if options.get("compression"):
        changed["compression"] = Compression(options["compression"])
    return Work(
        source=loaded.folder,
        commit=commit,
        spec=spec.check(plain.changed(**changed)),
        output=options.get("output") or "",
        threads=options.get("threads") or 0,
    )


def run(work: Work, *, progress: Any) -> BuiltImage:
    """Build it."""
    kind, _, place = work.output.partition(":")
    folder = Path(place) if kind == "oci" and place else None
    return build(source=work.source, commit=work.commit, spec=work.spec, output=folder, progress=progress, threads=work.threads)


def describe(work: Work, image: BuiltImage) -> dict[str, Any]:
    """The JSON object of ``vllm-ci build --json``."""
    return {
        "commit": {"sha": work.commit.sha, "dirty": work.commit.dirty},
        "image": {
            "reference": image.ref.reference,
            "digest": image.ref.digest,
            "tags": list(image.ref.tags),
            "layout": str(image.layout),
            "manifests": image.manifests,
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
        "pushed_bytes": 0,
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
        (folder / name).write_text(json.dumps(value, indent=1) + "\n")
