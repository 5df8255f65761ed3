"""A double on a free port of this machine, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import uvloop

from doubles.server import Double


@contextmanager
def running(make: Callable[[], Double]) -> Iterator[tuple[str, Double]]:
    """Serve while the context lasts; yields the base URL and the double.

    Args:
        make: Makes the double, inside the loop that it will live in.
    """
    started = threading.Event()
    found: list[tuple[str, Double]] = []
    loop = uvloop.new_event_loop()

    async def serve() -> asyncio.Server:
        double = make()
        server = cast("asyncio.Server", await loop.create_server(double.connection, "127.0.0.1", 0, backlog=512))
        found.append((f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", double))
        return server

    def live() -> None:
        asyncio.set_event_loop(loop)
        server = loop.run_until_complete(serve())
        started.set()
        loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=live, name="double", daemon=True)
    thread.start()
    if not started.wait(timeout=10):
        raise RuntimeError("the double did not start within 10 s")
    try:
        yield found[0]
    finally:
        with contextlib.suppress(RuntimeError):  # a double that dies has closed its loop
            loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
