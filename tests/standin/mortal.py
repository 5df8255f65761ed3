"""A double of vLLM as a program that ends when it is sent a certain text: ``mortal.py PORT [WORD] [TIMES_FILE]``.

With TIMES_FILE it ends only at the first time, which the file remembers, as a server that somebody else killed. A number as
WORD ends it at that request for anything but its health.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from doubles.server import Double
from doubles.wire import Connection, Request


class Mortal(Double):
    word = b""
    once: Path | None = None
    left = 0

    async def answer(self, request: Request, connection: Connection) -> None:
        first = self.once is None or not self.once.exists()
        Mortal.left -= not request.target.startswith("/health")
        if first and (self.left == 0 if self.word.isdigit() else self.word and self.word in request.body):
            if self.once is not None:
                self.once.touch()
            sys.stdout.write("FATAL the engine core died\n")
            sys.stdout.flush()
            os._exit(7)
        await super().answer(request, connection)


async def main(port: str, word: str = "", once: str = "") -> None:
    Mortal.word, Mortal.once = word.encode(), Path(once) if once else None
    Mortal.left = int(word) if word.isdigit() else 0
    double = Mortal(key="", file=None)
    server = await asyncio.get_running_loop().create_server(double.connection, "127.0.0.1", int(port), backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
