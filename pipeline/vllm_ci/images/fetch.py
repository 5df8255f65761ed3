"""Downloads: parallel, resumed, verified; into one folder, one file a hash."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_ci.domain.errors import BuildError, Interrupted
from vllm_ci.domain.events import Emit, step
from vllm_ci.images.store import publish, room_for
from vllm_ci.system.filelock import hold

if TYPE_CHECKING:
    import httpx

    from vllm_ci.images.receiving import Connections, Receiver

_TRIES = 4
PAUSE_S = 0.5
PARALLEL = 8
_STOP_INTERVAL_S = 0.2
_AGAIN = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file to have.

    Attributes:
        name: Its name, for messages.
        sha256: Hex digest.
        size_bytes: Its size.
        target: Where it has to be.
        turn: Those with a lower number are fetched first; among equals, the largest.
    """

    name: str
    sha256: str
    size_bytes: int
    target: Path
    turn: int = 0


# Finds the places that may serve a file, and says why others do not; called only for files that are not there, from several
# threads.
Locate = Callable[[Download, "httpx.Client", Callable[[str], None]], Iterable[str]]


@contextmanager
def client(certificates: str = "") -> Iterator[httpx.Client]:
    """An HTTP client that follows the user's proxies, certificates and netrc."""
    import ssl

    import httpx

    context = ssl.create_default_context(cafile=certificates or None)
    timeout = httpx.Timeout(60.0, connect=20.0)
    limits = httpx.Limits(max_connections=2 * PARALLEL, max_keepalive_connections=2 * PARALLEL)
    with httpx.Client(verify=context, timeout=timeout, limits=limits, follow_redirects=True, auth=_netrc()) as opened:
        yield opened


def receiver(certificates: str = "", connections: Connections | None = None) -> Receiver:
    """What large files come by."""
    from vllm_ci.images.receiving import Receiver

    return Receiver(2 * PARALLEL, certificates, connections)


def _opened(connections: Connections, event: str, info: dict[str, Any]) -> None:
    """Note a new connection of httpx (its extension ``trace``)."""
    if event in ("connection.connect_tcp.complete", "connection.start_tls.complete", "proxy.start_tls.complete"):
        connections.add(info["return_value"].get_extra_info("socket"))


def _netrc() -> httpx.NetRCAuth | None:
    import httpx

    try:
        return httpx.NetRCAuth()
    except (OSError, ValueError):
        return None


def have(
    wanted: Iterable[Download],
    locate: Locate,
    *,
    certificates: str = "",
    name: str = "fetch",
    emit: Emit,
    fetched: Callable[[Download], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> None:
    """Make sure that every wanted file lies at its target.

    Args:
        wanted: Which files.
        locate: Gives the places of one.
        certificates: File with more certificate authorities.
        name: Of the step that ``emit`` is told of.
        emit: Told of a download.
        fetched: Called for each file that is there, from several threads.
        stop: When it is set, downloads are given up.

    Raises:
        BuildError: One could not be fetched.
        Interrupted: ``stop`` was set.
    """
    absent = []
    for item in wanted:
        if _present(item):
            fetched(item)
        else:
            absent.append(item)
    if not absent:
        return
    from vllm_ci.images.receiving import Connections

    total = sum(item.size_bytes for item in absent)
    room_for(absent[0].target.parent.parent, total, what=f"{len(absent)} downloads")
    # Largest first: the last one to end would otherwise be one that started last.
    absent.sort(key=lambda item: (item.turn, -item.size_bytes))
    what = f"{len(absent)} files, {total / 1e6:,.0f} MB"
    with (
        step(emit, name, what),
        client(certificates) as http,
        receiver(certificates, connections := Connections()) as receives,
        ThreadPoolExecutor(PARALLEL, thread_name_prefix="fetch") as pool,
    ):
        http.event_hooks = {"request": [lambda request: request.extensions.update(trace=partial(_opened, connections))]}
        running = {pool.submit(_have, item, locate, http, receives, fetched) for item in absent}
        try:
            _until_done(running, stop)
        except BaseException:
            # The received parts are kept and resumed next time.
            pool.shutdown(wait=False, cancel_futures=True)
            connections.shutdown()
            http.close()
            raise


def _until_done(running: set[Future[None]], stop: threading.Event | None) -> None:
    while running:
        done, running = wait(running, timeout=_STOP_INTERVAL_S, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        if stop is not None and stop.is_set():
            raise Interrupted("the downloads were stopped")


def _present(item: Download) -> bool:
    try:
        return item.target.stat().st_size == item.size_bytes or not item.size_bytes
    except FileNotFoundError:
        return False


def _have(item: Download, locate: Locate, http: httpx.Client, receives: Receiver, fetched: Callable[[Download], None]) -> None:
    _obtain(item, locate, http, receives)
    fetched(item)


def _obtain(item: Download, locate: Locate, http: httpx.Client, receives: Receiver) -> None:
    item.target.parent.mkdir(parents=True, exist_ok=True)
    with hold(item.target.parent / ".lock"):
        if _present(item):
            return
        part = item.target.parent / f".{item.target.name}.part"
        reasons: list[str] = []
        for place in locate(item, http, reasons.append):
            try:
                _download(place, part, item, receives)
            except _Unavailable as error:
                reasons.append(str(error))
                continue
            publish(part, item.target)
            return
    raise BuildError(
        f"{item.name} with sha256 {item.sha256[:12]}... is not available anywhere",
        why="; ".join(dict.fromkeys(reasons)) or "no configured index or mirror lists it",
        remedy="mirrors drop old versions: run vllm-ci lock to use the current ones, or use an archive that keeps old ones "
        "(VLLM_CI_DEBIAN_MIRROR, pip's or uv's index settings)",
    )


def download(url: str, target: Path, receives: Receiver) -> None:
    """Fetch a file without a known hash.

    Raises:
        BuildError: It broke off again and again, or is not there.
    """
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(PAUSE_S * 2**attempt)
        try:
            if _attempt(url, target, receives):
                return
        except _Unavailable as error:
            raise BuildError(
                f"{target.name} cannot be fetched", why=str(error), remedy="check the address, then try again"
            ) from error
    raise BuildError(f"{target.name} cannot be fetched", why=f"{shown(url)} broke {_TRIES} times", remedy="try again later")


class _Unavailable(Exception):
    """This place does not serve the file."""


def _download(place: str, part: Path, item: Download, receives: Receiver) -> None:
    """Download ``place`` to ``part``, resuming an earlier try; the hash is checked."""
    if not place.startswith(("http://", "https://")):
        try:
            shutil.copyfile(place.removeprefix("file://"), part)
        except OSError as error:
            raise _Unavailable(f"{place}: {error.strerror}") from error
        _verify(part, item, place)
        return
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(PAUSE_S * 2**attempt)
        if _attempt(place, part, receives):
            _verify(part, item, place)
            return
    raise _Unavailable(f"{shown(place)} was interrupted {_TRIES} times")


def _attempt(place: str, part: Path, receives: Receiver) -> bool:
    """One request; false when the connection broke and another may go on."""
    from vllm_ci.images.receiving import Broken, Unreachable

    start = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        with receives.get(place, headers) as answer:
            if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return True
            if answer.status in _AGAIN or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                return False
            if answer.status >= HTTPStatus.BAD_REQUEST:
                raise _Unavailable(f"{shown(place)} answered {answer.status}")
            with part.open("ab" if answer.status == HTTPStatus.PARTIAL_CONTENT else "wb", buffering=0) as file:
                answer.to(file)
    except Unreachable as error:
        raise _Unavailable(f"{shown(place)} cannot be reached: {error}") from error
    except Broken:
        return False
    return True


def shown(place: str) -> str:
    """The host of ``place``: whole URLs may carry credentials."""
    return place.partition("://")[2].partition("/")[0].rpartition("@")[2]


def _verify(part: Path, item: Download, place: str) -> None:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != item.sha256:
        os.unlink(part)  # noqa: PTH108
        raise _Unavailable(f"{shown(place) or place} has another file under this name (sha256 {found[:12]}...)")
