"""A client that opens many streams at once and checks that each is whole."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import aiohttp


@dataclass(kw_only=True)
class Stream:
    """What came of one stream.

    Attributes:
        numbers: Of its events, in the order they came in.
        servers: Names of the servers that sent them.
        done: Whether its last event came.
        error: Why it broke.
    """

    numbers: list[int] = field(default_factory=list)
    servers: set[str] = field(default_factory=set)
    done: bool = False
    error: str = ""

    def whole(self, tokens: int) -> bool:
        """Whether all events came, once and in order, from one server."""
        return self.done and not self.error and self.numbers == list(range(tokens)) and len(self.servers) == 1


async def stream(
    client: aiohttp.ClientSession, address: str, *, tokens: int, interval_s: float, headers: dict[str, str] | None = None
) -> Stream:
    """One stream of ``tokens`` events."""
    found = Stream()
    body = {"model": "m", "stream": True, "max_tokens": tokens, "interval": interval_s}
    try:
        async with client.post(f"{address}/v1/completions", json=body, headers=headers) as answer:
            if answer.status != 200:
                found.error = f"status {answer.status}: {await answer.text()}"
            async for line in answer.content:
                text = line.decode().strip()
                if text == "data: [DONE]":
                    found.done = True
                elif text.startswith("data: "):
                    event = json.loads(text.removeprefix("data: "))
                    found.numbers.append(event["n"])
                    found.servers.add(event["server"])
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        found.error = f"{type(error).__name__}: {error}"
    return found


def many() -> aiohttp.ClientSession:
    """A client without a limit of connections, and without timeouts."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None))
