"""Brings what the locks name into the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from vllm_ci.domain.events import Emit
from vllm_ci.images import fetch, index
from vllm_ci.images.debian import mirrors
from vllm_ci.images.debian.mirrors import AptSource
from vllm_ci.images.fetch import Download
from vllm_ci.images.lockfile import LockedDeb, LockedWheel
from vllm_ci.images.store import Store

if TYPE_CHECKING:
    import httpx


def wheel_path(store: Store, wheel: LockedWheel) -> Path:
    """Path of a wheel in the store, whether or not it exists."""
    return store.wheels / wheel.sha256[:16] / wheel.filename


def deb_path(store: Store, deb: LockedDeb) -> Path:
    """Path of a Debian package in the store, whether or not it exists."""
    return store.debs / deb.sha256[:16] / deb.path.rpartition("/")[2]


def fetch_wheels(
    store: Store,
    wheels: Iterable[LockedWheel],
    *,
    emit: Emit,
    turns: Mapping[str, int] | None = None,
    fetched: Callable[[Download], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> None:
    """Have all ``wheels`` in the store.

    Args:
        store: Where.
        wheels: Which.
        emit: Told of downloads.
        turns: Order of the downloads, by sha256; see :class:`~vllm_ci.images.fetch.Download`.
        fetched: Called for each wheel that is there, from several threads.
        stop: When it is set, downloads are given up.

    Raises:
        BuildError: One is not available anywhere.
        Interrupted: ``stop`` was set.
    """
    by_hash = {wheel.sha256: wheel for wheel in wheels}
    wanted = [
        Download(
            name=wheel.filename,
            sha256=wheel.sha256,
            size_bytes=wheel.size_bytes,
            target=wheel_path(store, wheel),
            turn=(turns or {}).get(wheel.sha256, 0),
        )
        for wheel in by_hash.values()
    ]
    if all(item.target.exists() for item in wanted):
        for item in wanted:
            fetched(item)
        return
    indexes = index.configured()

    def locate(item: Download, http: httpx.Client, complain: Callable[[str], None]) -> Iterator[str]:
        yield from _linked(item.name, indexes.find_links)
        for root in indexes.urls:
            yield from _listed(root, by_hash[item.sha256], http, complain)

    certificates = indexes.certificates
    fetch.have(wanted, locate, certificates=certificates, name="fetch wheels", emit=emit, fetched=fetched, stop=stop)


def _linked(filename: str, find_links: Iterable[str]) -> Iterator[str]:
    """The file in folders named by find-links (pages of links are left to indexes)."""
    for place in find_links:
        path = Path(place.removeprefix("file://")) / filename
        if path.is_file():
            yield str(path)


def _listed(root: str, wheel: LockedWheel, http: httpx.Client, complain: Callable[[str], None]) -> Iterator[str]:
    """URLs of a wheel on its project's page."""
    import httpx

    from vllm_ci.images.simple import packages

    try:
        found = packages(root, wheel.project, http, only=(wheel.filename, wheel.sha256))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        complain(f"the index {fetch.shown(root)} cannot be reached: {error}")
        return
    for package in found:
        if package.filename == wheel.filename or package.digests.get("sha256") == wheel.sha256:
            yield package.url.partition("#")[0]


def fetch_debs(store: Store, debs: Iterable[LockedDeb], *, sources: Callable[[], Iterable[AptSource]], emit: Emit) -> None:
    """Have all ``debs`` in the store.

    Raises:
        BuildError: One is not available anywhere.
    """
    by_hash = {deb.sha256: deb for deb in debs}
    wanted = [
        Download(name=f"{deb.name} {deb.version}", sha256=deb.sha256, size_bytes=deb.size_bytes, target=deb_path(store, deb))
        for deb in by_hash.values()
    ]
    if all(item.target.exists() for item in wanted):
        return
    roots = mirrors.roots(sources())

    def locate(item: Download, _: httpx.Client, __: Callable[[str], None]) -> Iterator[str]:
        for root in roots:
            path = by_hash[item.sha256].path
            yield f"{root}/{quote(path)}" if root.startswith(("http://", "https://")) else f"{root}/{path}"

    fetch.have(wanted, locate, certificates=index.configured().certificates, name="fetch packages", emit=emit)
