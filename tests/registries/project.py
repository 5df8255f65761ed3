"""A user's project with commits, built and tested in no time: a tiny image in the builder's store, and the report of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from registries.evidence import report_of
from registries.images import add_image, layer_of
from vllm_ci.config.load import load
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.report import Verdict
from vllm_ci.images import materials
from vllm_ci.images.lockfile import LockedDeb, LockedWheel, read_debs, read_wheels, write_debs, write_wheels
from vllm_ci.images.materials import BuiltFrom
from vllm_ci.images.spec_file import host_platform
from vllm_ci.images.store import Store
from vllm_ci.registry.layout import Layout
from vllm_ci.report import folder as reports
from vllm_ci.system import vcs

_METADATA = "opt/lib/python3.11/site-packages/vllm-0.32.0.dist-info/METADATA"
_PERSON = ("-c", "user.name=Rita Release", "-c", "user.email=rita@example.com")


def make_project(folder: Path) -> None:
    """A repository with `vllm-ci.yaml`, an image spec with its locks, and a template."""
    folder.mkdir()
    platform = host_platform()
    (folder / "vllm-ci.yaml").write_text(
        "name: chat\nimage:\n  spec: ./image.yaml\n  overlays:\n  - {from: serving, to: /opt/serving}\n"
    )
    (folder / "image.yaml").write_text(
        "base: {suite: bookworm}\npython: '3.11'\nglibc: '2.36'\nprefix: /opt\n"
        f"platforms: [{platform}]\nrequirements: [vllm]\ntiers:\n- {{name: all, wheels: ['*']}}\n"
    )
    wheel = LockedWheel(
        project="vllm",
        version="0.32.0",
        filename="vllm-0.32.0-py3-none-any.whl",
        sha256="1" * 64,
        size_bytes=1,
        platforms=(platform,),
    )
    write_wheels(folder / "image.lock", [wheel], (platform,), spec="image")
    architecture = platform.partition("/")[2]
    deb = LockedDeb(
        name="libssl3",
        version="3.0.15-1~deb12u1",
        architecture=architecture,
        sha256="2" * 64,
        size_bytes=1,
        path=f"pool/main/o/openssl/libssl3_3.0.15-1~deb12u1_{architecture}.deb",
    )
    write_debs(folder / "image.debs.lock", [deb], spec="image")
    vcs.git("init", "--quiet", "--initial-branch=main", cwd=folder)
    commit(folder, "Hello, world")


def commit(folder: Path, template: str) -> None:
    """A commit that changes the template."""
    (folder / "serving").mkdir(exist_ok=True)
    (folder / "serving/template.jinja").write_text(template + "\n")
    vcs.git("add", "--all", cwd=folder)
    vcs.git(*_PERSON, "commit", "--quiet", "--message", template, cwd=folder)


def build_and_test(folder: Path, verdicts: Mapping[str, Verdict] | None = None, *, double: bool = False) -> ImageRef:
    """What `vllm-ci run` leaves behind: the image of HEAD in the store, and a report in the folder of runs."""
    head = vcs.discover(folder)
    loaded = load(folder / "vllm-ci.yaml")
    content = (folder / "serving/template.jinja").read_bytes()
    base, own = (
        layer_of({_METADATA: b"Name: vllm"}),
        layer_of({"opt/serving/template.jinja": content, "sha": head.sha.encode()}),
    )
    store = Store()
    store.prepare()
    manifest = add_image(Layout(store.layout), base, own, labels={"org.opencontainers.image.revision": head.sha})
    owners = ({"vllm": {_METADATA: _hash(b"Name: vllm")}}, {"commit": {"opt/serving/template.jinja": _hash(content)}})
    for layer, files in zip(manifest.blobs[1:], owners, strict=True):
        store.keep("files", layer.digest.removeprefix("sha256:"), files)
    spec = loaded.config.image.image_spec(folder)
    made_of = BuiltFrom.of_spec(spec).with_platform(
        store, read_wheels(spec.wheels_lock, spec.platforms), read_debs(spec.debs_lock), [manifest.blobs[2].digest]
    )
    materials.keep(store, manifest.digest, made_of)
    image = ImageRef(repository="image", digest=manifest.digest, tags=(f"{head.sha}-image",))
    report = report_of(head, image, verdicts, at=datetime.now(UTC).replace(microsecond=0), double=double)
    reports.write(folder / loaded.config.report.directory, report, {})
    return image


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
