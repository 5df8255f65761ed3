"""A server in the place of vLLM that streams numbered events as slowly as it is asked to, and ends as vLLM does.

Usage: ``streaming.py PORT NAME SEEN [MODE]``. It writes each request and its headers to the file SEEN. On SIGTERM it
takes no new connections, and ends once the last request has ended (vLLM's ``--shutdown-timeout``).

Modes: ``dies``: ends at once, with a message; ``deaf``: never answers; ``broken``: answers every second completion with 500;
``slow``: waits half a second before each answer; ``late``: before each answer to a health check;
``stubborn``: never ends on SIGTERM; ``fragile``: ends at a prompt ``die``;
``wrong``: streams another text from the third token on;
``sleeper``: has vLLM's sleep mode, and ends at a request while it sleeps; ``sleepless``: ends when it is woken.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

_METRICS = 'vllm:num_requests_waiting{model_name="m"} 2.0\nvllm:num_requests_running 1.0\nvllm:kv_cache_usage_perc 0.25\n'


class Server:
    def __init__(self, name: str, seen: Path, mode: str) -> None:
        self.name, self.mode = name, mode
        self.seen = seen.open("a", encoding="utf-8", buffering=1)
        self.open = 0
        self.count = 0
        self.asleep = False
        self.ending = asyncio.Event()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *rest = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (row.partition(":") for row in rest if row)}
        body = await self.body(reader, headers)
        method, target, _ = line.split(" ")
        self.seen.write(json.dumps([method, target, headers]) + "\n")
        self.open += 1
        try:
            await self.answer(writer, method, target.partition("?")[0], body)
        finally:
            self.open -= 1
            if self.ending.is_set() and not self.open:
                os._exit(0)
        return True

    async def body(self, reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            found = b""
            while size := int(await reader.readline(), 16):
                found += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
            return found
        return await reader.readexactly(int(headers.get("content-length", 0)))

    async def answer(self, writer: asyncio.StreamWriter, method: str, path: str, body: bytes) -> None:
        if path == "/metrics":
            return await self.plain(writer, 200, _METRICS.encode())
        if method != "POST":
            await asyncio.sleep(0.5 if self.mode == "late" and path == "/health" else 0)
            return await self.plain(writer, 200, b'{"data": []}')
        if self.slept(path):
            return await self.plain(writer, 200, b"")
        try:
            asked: dict[str, Any] = json.loads(body)
        except ValueError:
            return await self.plain(writer, 400, b'{"error": {"message": "no JSON"}}')
        self.count += 1
        await asyncio.sleep(0.5 if self.mode == "slow" else 0)
        if self.mode == "broken" and self.count > 1 and self.count % 2:
            return await self.plain(writer, 500, b'{"error": {"message": "broken"}}')
        if self.mode == "fragile" and asked.get("prompt") == "die":
            os._exit(9)
        if "messages" in asked:
            await self.chat(writer, asked)
        elif not asked.get("stream"):
            used = int(asked.get("max_tokens", 1))
            told = {"choices": [{"text": self.name}], "usage": {"prompt_tokens": 0, "total_tokens": used}}
            await self.plain(writer, 200, json.dumps(told).encode())
        else:
            await self.stream(writer, int(asked.get("max_tokens", 1)), float(asked.get("interval", 0)))
        return None

    def slept(self, path: str) -> bool:
        """Whether a request only has the server sleep or wake."""
        if path in ("/sleep", "/wake_up") and self.mode.startswith("sleep"):
            if self.mode == "sleepless" and path == "/wake_up":
                os._exit(9)
            self.asleep = path == "/sleep"
            return True
        if self.asleep:
            os._exit(9)
        return False

    async def chat(self, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
        """The last message again, in pieces of two characters if it is streamed; ``breaks_off``: without the end."""
        text = asked["messages"][-1]["content"]
        if not asked.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            await self.plain(writer, 200, json.dumps({"created": 1, "choices": [choice]}).encode())
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        pieces = [text[start : start + 2] for start in range(0, len(text), 2)]
        for number, piece in enumerate(pieces):
            end = "stop" if number == len(pieces) - 1 else None
            choice = {"index": 0, "delta": {"content": piece}, "finish_reason": end}
            event = b": ping\r\ndata: " + json.dumps({"choices": [choice]}, ensure_ascii=False).encode() + b"\r\n\r\n"
            # Half of an event, cut inside of a character where there is one.
            for part in (event[: len(event) // 2], event[len(event) // 2 :]):
                writer.write(b"%x\r\n%s\r\n" % (len(part), part))
                await writer.drain()
                await asyncio.sleep(float(asked.get("interval", 0)))
            if asked.get("breaks_off") and number:
                writer.close()
                return
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await writer.drain()

    async def plain(self, writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode())
        writer.write(body)
        await writer.drain()

    async def stream(self, writer: asyncio.StreamWriter, tokens: int, interval_s: float) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(tokens):
            text = " other" if self.mode == "wrong" and number >= 2 else f" {number}"
            choice = {"index": 0, "text": text, "finish_reason": "length" if number == tokens - 1 else None}
            event = f"data: {json.dumps({'n': number, 'server': self.name, 'choices': [choice]})}\n\n".encode()
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.sleep(interval_s)
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await writer.drain()

    def end(self, listener: asyncio.Server) -> None:
        if self.mode == "stubborn":
            return
        self.ending.set()
        listener.close()
        if not self.open:
            os._exit(0)


async def main(port: str, name: str, seen: str, mode: str = "") -> None:
    sys.stdout.write(f"INFO {name} starts in process {os.getpid()}\n")
    sys.stdout.flush()
    if mode == "dies":
        sys.exit("CUDA out of memory")
    if mode == "deaf":
        await asyncio.sleep(3600)
    server = Server(name, Path(seen), mode)
    listener = await asyncio.start_server(server.connection, "127.0.0.1", int(port), backlog=1024)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.end, listener)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
