"""A small world to build images in: wheels, Debian packages, locks, a repository, a store."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagery.debs import write_deb
from imagery.wheels import ELF, write_wheel
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.events import Emit, ignore
from vllm_ci.domain.image_spec import Base, Files, ImageSpec, Overlay, Tier
from vllm_ci.images.build import BuiltImage, build
from vllm_ci.images.lockfile import LockedDeb, LockedWheel, write_debs, write_wheels
from vllm_ci.images.spec_file import host_platform
from vllm_ci.images.store import Store, image_manifest
from vllm_ci.images.stream import tar_stream
from vllm_ci.system.vcs import discover

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
PLATFORMS = ("linux/amd64", "linux/arm64")
SITE = f"opt/vllm/lib/python{PYTHON}/site-packages"
VLLM = {
    "vllm/__init__.py": b"__version__ = '1.0'\n",
    "vllm/engine.py": b"STEP = 1\n",
    "vllm/old/__init__.py": b"",
    "vllm/old/thing.py": b"GONE = False\n",
    "vllm/_C.abi3.so": ELF,
    "vllm/tool": ELF * 3,
    "vllm/_version.py": b"version = '1.0'\n",
}


def git(folder: Path, *arguments: str) -> str:
    """Run git for a test, under a fixed name and time."""
    env = {
        **os.environ,
        **{
            f"GIT_{who}_{what}": "a@b" if what == "EMAIL" else "a"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
        "GIT_AUTHOR_DATE": "1700000000 +0000",
        "GIT_COMMITTER_DATE": "1700000000 +0000",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    return subprocess.run(["git", *arguments], cwd=folder, env=env, check=True, capture_output=True, text=True).stdout.strip()


@dataclass(kw_only=True)
class World:
    """Everything under one folder."""

    root: Path
    wheels: list[LockedWheel] = field(default_factory=list)
    debs: list[LockedDeb] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return Store(self.root / "home")

    @property
    def links(self) -> Path:
        return self.root / "links"

    @property
    def repository(self) -> Path:
        return self.root / "repository"

    def wheel(self, name: str, version: str, files: Mapping[str, bytes], **more: Any) -> Path:
        """Make a wheel and lock it for all platforms."""
        path = write_wheel(self.links, name, version, files, **more)
        facts: dict[str, Any] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size_bytes": path.stat().st_size}
        self.wheels = [wheel for wheel in self.wheels if wheel.project != name]
        self.wheels.append(LockedWheel(project=name, version=version, filename=path.name, platforms=PLATFORMS, **facts))
        return path

    def deb(self, name: str, version: str, files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> None:
        """Make a package and lock it for all platforms."""
        where = f"pool/{name}_{version}.deb"
        path = write_deb(self.root / "mirror" / where, name, version, files, links)
        facts: dict[str, Any] = {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size_bytes": path.stat().st_size,
            "path": where,
        }
        for platform in PLATFORMS:
            self.debs.append(LockedDeb(name=name, version=version, architecture=platform.partition("/")[2], **facts))

    def spec(self, **changes: Any) -> ImageSpec:
        """Write the locks, and the spec that goes with them."""
        lock, debs = self.root / "images" / "small.lock", self.root / "images" / "small.debs.lock"
        lock.parent.mkdir(exist_ok=True)
        write_wheels(lock, self.wheels, PLATFORMS, spec="small")
        write_debs(debs, self.debs, spec="small")
        values: dict[str, Any] = {
            "name": "small",
            "variant": "test",
            "repository": "small",
            "base": Base(suite="bookworm", packages=("small",), links={"/usr/bin/cc": "gcc"}),
            "python": PYTHON,
            "glibc": "2.36",
            "prefix": "/opt/vllm",
            "platforms": PLATFORMS,
            "targets": (host_platform(),),
            "requirements": (),
            "wheels_lock": lock,
            "debs_lock": debs,
            "tiers": (
                Tier(name="dependencies", wheels=("*", "!vllm*")),
                Tier(name="vllm-compiled", wheels=("vllm*",), files=Files.COMPILED),
                Tier(name="vllm-python", wheels=("vllm*",), files=Files.PYTHON),
            ),
            "writable": ("/home/vllm",),
            "env": {"HOME": "/home/vllm"},
            "entrypoint": ("/opt/vllm/bin/python", "-m", "vllm"),
            "overlays": (Overlay(source="serving", target="/opt/serving"),) if (self.repository / "serving").exists() else (),
        }
        return ImageSpec(**{**values, **self.settings, **changes})

    def commit(self, files: Mapping[str, bytes | None], *, tag: str = "") -> Commit:
        """Commit files (``None`` deletes one) to the repository."""
        if not (self.repository / ".git").exists():
            self.repository.mkdir(exist_ok=True)
            git(self.repository, "init", "--quiet", "--initial-branch=main")
        for name, content in files.items():
            path = self.repository / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
        git(self.repository, "add", "--all")
        git(self.repository, "commit", "--quiet", "--allow-empty", "--message", "change")
        if tag:
            git(self.repository, "tag", tag)
        return discover(self.repository)

    def build(
        self,
        *,
        commit: Commit | None = None,
        store: Store | None = None,
        threads: int = 0,
        emit: Emit = ignore,
        unpack: bool = False,
        **changes: Any,
    ) -> BuiltImage:
        """Build the repository's commit."""
        return build(
            source=self.repository,
            commit=commit or discover(self.repository),
            spec=self.spec(**changes),
            store=store or self.store,
            threads=threads,
            emit=emit,
            unpack=unpack,
        )

    def contents(self, image: BuiltImage, tier: str, *, store: Store | None = None) -> dict[str, tarfile.TarInfo]:
        """Members of one of an image's layers."""
        digest = next(layer.digest for layer in image.layers if layer.tier == tier)
        with tar_stream((store or self.store).blob(digest)) as archive:
            return {member.name: member for member in archive}

    def files(self, image: BuiltImage) -> dict[str, bytes]:
        """Regular files of an image's layers, later ones over earlier ones; whiteouts stay as they are."""
        found: dict[str, bytes] = {}
        for layer in image_manifest(image.ref.digest, platform=host_platform(), store=self.store)["layers"]:
            with tar_stream(self.store.blob(layer["digest"])) as archive:
                for member in archive:
                    if member.isfile() and (file := archive.extractfile(member)):
                        found[member.name] = file.read()
        return found

    def config(self, image: BuiltImage) -> dict[str, Any]:
        """The image's config."""
        manifest = image_manifest(image.ref.digest, platform=host_platform(), store=self.store)
        config: dict[str, Any] = json.loads(self.store.read(manifest["config"]["digest"]))
        return config


def furnish(root: Path) -> World:
    """A world with a base, a dependency, vLLM, and a repository with a serving folder."""
    world = World(root=root)
    world.deb(
        f"python{PYTHON}-minimal", "1.0-1", {f"./usr/bin/python{PYTHON}": b"\x7fELF python", "./lib/here.so": b"\x7fELF lib"}
    )
    world.deb("certificates", "2", {"./usr/share/ca-certificates/b.crt": b"B\n", "./usr/share/ca-certificates/a.crt": b"A"})
    helper = {"helper/__init__.py": b"VALUE = 1\n", "helper/tests/test_value.py": b"import helper\n"}
    world.wheel("helper", "0.1", {**helper, "helper/data.bin": bytes(range(256)) * 400})
    world.wheel("vllm-small", "1.0", VLLM)
    world.commit({"serving/template.jinja": b"{{ messages }}", "serving/post.py": b"def post(text):\n    return text\n"})
    return world
