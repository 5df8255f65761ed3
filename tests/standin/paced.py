"""A double of vLLM that takes a while to start and whose speed is given: ``paced.py PORT MODEL SECONDS FACTOR [MODE]``.

With FACTOR 1.1 a token takes 10 % longer. With MODE ``silent`` it never starts.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from doubles.server import Double

TOKEN_S, PREFILL_S = 0.025, 0.4


class Paced(Double):
    prefill_s = PREFILL_S

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        async with super().slot():
            await asyncio.sleep(self.prefill_s)
            yield


async def main(port: str, model: str, seconds: str, factor: str, mode: str = "") -> None:
    time.sleep(float(seconds))
    if mode == "silent":
        sys.exit("ValueError: No available memory for the cache blocks")
    double = Paced(key="")
    double.model = model
    double.token_s, double.prefill_s = TOKEN_S * float(factor), PREFILL_S * float(factor)
    server = await asyncio.get_running_loop().create_server(double.connection, "127.0.0.1", int(port), backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
