"""Doubles of vLLM that answer one request at a time, and what they do with more: ``crowded.py PORT MODEL MODE``.

``queues`` accepts everything. When four wait, ``refuses`` answers 429 with Retry-After, ``refuses-bare`` 503 without it,
``errors`` 500, and ``short`` ends each answer one token early. When 45 wait, ``slows`` takes ten times as long from then on,
and ``dies`` ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from doubles.asked import Asked
from doubles.server import Double
from doubles.wire import Connection, Response, as_json

ANSWER_S = 0.03
"""So the capacity is below 33 requests/s."""
FEW, MANY = 4, 45


class Crowded(Double):
    def __init__(self, mode: str = "queues") -> None:
        super().__init__()
        self.mode = mode
        self.turn = asyncio.Lock()
        self.waiting = 0
        self.slow = False

    async def posted(self, path: str, body: dict[str, object], connection: Connection) -> Response | None:
        if not path.endswith("completions"):
            return await super().posted(path, body, connection)
        if self.waiting >= FEW and (refusal := self.refusal()) is not None:
            return refusal
        if self.waiting >= MANY and self.mode == "dies":
            os._exit(7)
        self.waiting += 1
        self.slow = self.slow or (self.mode == "slows" and self.waiting >= MANY)
        try:
            async with self.turn:
                await asyncio.sleep(ANSWER_S * (10 if self.slow else 1))
                return await super().posted(path, body, connection)
        finally:
            self.waiting -= 1

    def refusal(self) -> Response | None:
        answers = {"refuses": (429, {"retry-after": "1"}), "refuses-bare": (503, {}), "errors": (500, {})}
        status, headers = answers.get(self.mode, (0, {}))
        return as_json({"error": {"message": "too many requests", "code": status}}, status, headers) if status else None

    def asked(self, body: dict[str, object], *, chat: bool) -> Asked:
        found = super().asked(body, chat=chat)
        return replace(found, max_tokens=found.max_tokens - 1) if self.mode == "short" and self.waiting > FEW else found


async def main(port: str, model: str, mode: str) -> None:
    Crowded.model = model
    double = Crowded(mode)
    server = await asyncio.get_running_loop().create_server(double.connection, "127.0.0.1", int(port), backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
