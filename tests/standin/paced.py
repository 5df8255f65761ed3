"""A double of vLLM that takes a while to start and whose speed is given: ``paced.py PORT MODEL SECONDS FACTOR [MODE]``.

With FACTOR 1.1 a token takes 10 % longer. MODE ``dies`` ends it in the middle of its first long answer, ``silent`` never starts.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from doubles.server import Double

TOKEN_S, PREFILL_S = 0.006, 0.06
_LONG = 200


class Paced(Double):
    prefill_s = PREFILL_S
    dies = False

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        async with super().slot():
            if self.dies and self.counts["requests"] > _LONG:
                sys.stdout.write("ERROR the engine core died\n")
                sys.stdout.flush()
                os._exit(7)
            await asyncio.sleep(self.prefill_s)
            yield


async def main(port: str, model: str, seconds: str, factor: str, mode: str = "") -> None:
    time.sleep(float(seconds))  # noqa: ASYNC251 - nothing else runs yet
    if mode == "silent":
        sys.exit("ValueError: No available memory for the cache blocks")
    double = Paced(key=os.environ.get("VLLM_API_KEY", ""))
    double.model = model
    double.token_s, double.prefill_s, double.dies = TOKEN_S * float(factor), PREFILL_S * float(factor), mode == "dies"
    server = await asyncio.get_running_loop().create_server(double.connection, "127.0.0.1", int(port), backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
