from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imagery.world import World
from vllm_ci.domain.errors import BuildError, Interrupted
from vllm_ci.domain.events import ignore
from vllm_ci.images import fetch, supply
from vllm_ci.images.arriving import Arriving
from vllm_ci.images.lockfile import LockedWheel

pytestmark = pytest.mark.slow

PATIENCE_S = 20.0


class SlowIndex:
    """A package index of which one file comes only when it is released."""

    def __init__(self, folder: Path, held: str) -> None:
        self.released = threading.Event()
        self.asked: list[str] = []
        self.waited_out = False
        index = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.endswith("/"):
                    links = "".join(f'<a href="/{path.name}">{path.name}</a>' for path in folder.iterdir())
                    self.send_response(200)
                    self.send_header("Content-Type", "text/html")
                    self.end_headers()
                    self.wfile.write(f"<!DOCTYPE html><html><body>{links}</body></html>".encode())
                    return
                index.asked.append(self.path.strip("/").partition("-")[0])
                if held in self.path and not index.released.wait(PATIENCE_S):
                    index.waited_out = True
                super().do_GET()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple"


@pytest.fixture
def index(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowIndex]:
    for name in ("early", "late"):
        world.wheel(name, "1.0", {f"{name}/__init__.py": b"x = 1\n"})
    found = SlowIndex(world.links, "late")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "UV_INDEX", "UV_FIND_LINKS", "UV_DEFAULT_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", found.url)
    monkeypatch.setattr(fetch, "PAUSE_S", 0.0)
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.released.set()
    found.server.shutdown()
    thread.join()
    found.server.server_close()


def of(world: World, name: str) -> list[LockedWheel]:
    return [wheel for wheel in world.wheels if wheel.project == name]


def test_a_layer_does_not_wait_for_the_wheels_of_others(world: World, index: SlowIndex) -> None:
    early, late = of(world, "early"), of(world, "late")
    with Arriving(world.store, [early, late], emit=ignore) as arriving:
        arriving.wait(early)
        assert supply.wheel_path(world.store, early[0]).exists()
        assert not supply.wheel_path(world.store, late[0]).exists()
        index.released.set()
        arriving.wait(late)
        assert supply.wheel_path(world.store, late[0]).exists()


def test_wheels_of_the_first_layer_are_fetched_first(world: World, index: SlowIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    index.released.set()
    monkeypatch.setattr(fetch, "PARALLEL", 1)
    with Arriving(world.store, [of(world, "late"), of(world, "early")], emit=ignore):
        pass
    assert index.asked == ["late", "early"]


def test_who_waits_is_told_that_a_wheel_is_nowhere(world: World, index: SlowIndex) -> None:
    index.released.set()
    late = of(world, "late")
    supply_of_it = world.links / late[0].filename
    supply_of_it.unlink()
    with pytest.raises(BuildError, match="is not available anywhere"), Arriving(world.store, [late], emit=ignore) as arriving:
        arriving.wait(late)
    # The error is raised where nobody waits, too.
    with pytest.raises(BuildError, match="is not available anywhere"), Arriving(world.store, [late], emit=ignore):
        pass


def test_who_waits_is_told_that_the_downloads_were_stopped(world: World, index: SlowIndex) -> None:
    def interrupted(late: list[LockedWheel]) -> None:
        with Arriving(world.store, [late], emit=ignore) as arriving, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(arriving.wait, late)
            arriving.stop()
            with pytest.raises(Interrupted):
                waiting.result(PATIENCE_S / 2)  # before the index answers
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(of(world, "late"))
    assert not index.waited_out, "the build waited for an answer that it no longer needs"


def test_a_wheel_that_nobody_announced_is_fetched_by_who_waits_for_it(world: World, index: SlowIndex) -> None:
    index.released.set()
    with Arriving(world.store, [of(world, "early")], emit=ignore) as arriving:
        arriving.wait(of(world, "late"))
        assert supply.wheel_path(world.store, of(world, "late")[0]).exists()
