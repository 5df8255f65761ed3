"""A double of vLLM as a program that ends when it is sent a certain text: ``mortal.py PORT [WORD] [TIMES_FILE]``.

With TIMES_FILE it ends only at the first time, which the file remembers, as a server that somebody else killed.
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

    async def answer(self, request: Request, connection: Connection) -> None:
        first = self.once is None or not self.once.exists()
        if self.word and self.word in request.body and first:
            if self.once is not None:
                self.once.touch()
            sys.stdout.write("FATAL the engine core died\n")
            sys.stdout.flush()
            os._exit(7)
        await super().answer(request, connection)


async def main(port: str, word: str = "", once: str = "") -> None:
    Mortal.word, Mortal.once = word.encode(), Path(once) if once else None
    double = Mortal(key="", file=None)
    server = await asyncio.get_running_loop().create_server(double.connection, "127.0.0.1", int(port), backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
