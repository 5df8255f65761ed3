"""Bring an image into the store of this machine: that of a channel or commit, or one named by digest or reference."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vllm_ci.config import load, releases
from vllm_ci.config.load import Loaded
from vllm_ci.domain.errors import BuildError, ErroredError
from vllm_ci.domain.events import Emit, step
from vllm_ci.images import request
from vllm_ci.images.request import BuildRequest
from vllm_ci.images.spec_file import host_platform
from vllm_ci.images.store import Store, image_config, image_manifest
from vllm_ci.registry.access import Access
from vllm_ci.registry.errors import NotFoundError
from vllm_ci.registry.layout import Layout
from vllm_ci.registry.manifest import Manifest
from vllm_ci.registry.push_progress import PushProgress
from vllm_ci.registry.reference import is_digest, split_name
from vllm_ci.registry.transfer import copy, open_repository
from vllm_ci.release.past import past
from vllm_ci.system import scratch, vcs


@dataclass(frozen=True, kw_only=True)
class Obtained:
    """An image in the store.

    Attributes:
        source: Where it comes from, or why there is none.
        repository: Its name without tag and digest.
        digest: Its digest; ``None`` for a channel without a release.
    """

    source: str
    repository: str = ""
    digest: str | None = None

    def write(self, folder: Path) -> None:
        """``image.json`` with the attributes, and ``config.json`` with the OCI configuration for this platform."""
        folder.mkdir(parents=True, exist_ok=True)
        documents: dict[str, Any] = {"image.json": vars(self)}
        if self.digest is not None:
            documents["config.json"] = image_config(self.digest, platform=host_platform())
        for name, value in documents.items():
            (folder / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def obtain(loaded: Loaded, name: str, *, emit: Emit) -> Obtained:
    """Bring an image into the store.

    Args:
        loaded: The configuration: its channels, repository and checkout.
        name: Name of a channel, a digest, a reference (``host/name:tag``, ``oci:FOLDER@sha256:...``), or a revision of the
            checkout, whose image is built with the configuration of that revision.
        emit: Called at every start and end of a step.

    Raises:
        ErroredError: It could not be pulled or built, or the ledger cannot be read.
        UsageError: There is no such revision.
    """
    if name in loaded.config.release.channels:
        return _of_channel(loaded, name, emit)
    if is_digest(name):
        return _by_digest(loaded, name, f"digest {name[:19]}", emit)
    if _is_reference(name):
        repository, reference = _parts(name)
        digest = _pulled(repository, reference, Access.from_environment(), emit)
        return Obtained(source=f"image {name}", repository=repository, digest=digest)
    return _of_revision(loaded, name, emit)


def _of_channel(loaded: Loaded, name: str, emit: Emit) -> Obtained:
    head = past(releases.of(loaded).setup, name).heads[name]
    if head is None:
        return Obtained(source=f"the channel {name} has no release")
    source = f"channel {name}, commit {head.release.commit[:12]}"
    return _by_digest(loaded, head.release.digest, source, emit)


def _by_digest(loaded: Loaded, digest: str, source: str, emit: Emit) -> Obtained:
    setup = releases.of(loaded).setup
    if not _is_complete(digest):
        _pulled(setup.repository, digest, setup.access, emit)
    return Obtained(source=source, repository=setup.subject, digest=digest)


def _of_revision(loaded: Loaded, revision: str, emit: Emit) -> Obtained:
    """Build a revision with its own configuration, spec and locks, which may differ from those of the work tree."""
    checkout = vcs.root(loaded.folder)
    commit = replace(vcs.discover(checkout, revision), dirty=False)
    place = loaded.path.resolve().relative_to(checkout.resolve())
    with _checked_out(checkout, commit.sha) as folder:
        there = load.load(folder / place)
        spec = there.config.image.image_spec(there.folder)
        built = request.build(BuildRequest(source=there.folder, commit=commit, spec=spec), emit=emit)
    return Obtained(source=f"commit {commit.short}", repository=built.ref.repository, digest=built.ref.digest)


@contextmanager
def _checked_out(checkout: Path, sha: str) -> Iterator[Path]:
    """The files of a commit, in a work tree that is removed at the end of the context."""
    with scratch.folder("baseline-") as folder:
        place = folder / "checkout"
        vcs.git("worktree", "add", "--quiet", "--force", "--detach", str(place), sha, cwd=checkout)
        try:
            yield place
        finally:
            vcs.git("worktree", "remove", "--force", str(place), cwd=checkout)


def present(repository: str, digest: str, *, access: Access, emit: Emit) -> None:
    """Pull an image into the store, unless it is there.

    Raises:
        ErroredError: The repository does not have it.
    """
    if not _is_complete(digest):
        _pulled(repository, digest, access, emit)


class _Unlisted(Layout):
    """The layout of the store while an image is pulled: its parts get no entries of their own in the index."""

    def put_manifest(self, manifest: Manifest, *, tag: str = "") -> None:  # noqa: ARG002 - tags are set afterwards
        self.put_blob(manifest.descriptor, lambda start: [manifest.content[start:]])

    def resolve(self, reference: str) -> str | None:  # noqa: ARG002 - blobs that are there are found one by one
        return None


def _pulled(repository: str, reference: str, access: Access, emit: Emit) -> str:
    """Pull an image under a name by which it is found and pruned; its digest."""
    store = Store()
    store.prepare()
    with store.in_use(), step(emit, "pull", f"{repository}@{reference}") as done, open_repository(repository, access) as source:
        try:
            manifest = source.manifest(reference)
        except NotFoundError as error:
            raise ErroredError(
                f"there is no image {reference} in {source.name}",
                why="it was deleted there, or it was never pushed to that repository",
                remedy="name a digest, a reference or a commit that exists",
            ) from error
        sent = copy(
            (source,),
            manifest.digest,
            _Unlisted(store.layout),
            parallel=access.parallel,
            on_bytes=PushProgress(emit, "pull"),
        )
        tag = "pulled-" + manifest.digest.removeprefix("sha256:")[:12]
        store.tag(manifest.descriptor.to_json(), (f"{repository.rpartition('/')[2]}:{tag}",))
        done(f"{sent.pushed_bytes / 1e6:,.1f} MB received")
    return manifest.digest


def _is_complete(digest: str) -> bool:
    """Whether the store has the image with its layers for this platform."""
    store = Store()
    try:
        manifest = image_manifest(digest, platform=host_platform(), store=store)
    except BuildError:
        return False
    return all(store.blob(each["digest"]).exists() for each in (manifest["config"], *manifest["layers"]))


def _is_reference(name: str) -> bool:
    """Whether it names an image of a registry or of a folder, and no revision (``origin/main``)."""
    first, separator, _ = name.partition("/")
    host = separator and ("." in first or ":" in first or first == "localhost")
    return name.startswith("oci:") or "@sha256:" in name or bool(host)


def _parts(name: str) -> tuple[str, str]:
    """Repository, and digest or tag."""
    prefix = "oci:" if name.startswith("oci:") else ""
    repository, tag, digest = split_name(name.removeprefix("oci:"))
    return f"{prefix}{repository}", digest or tag or "latest"
