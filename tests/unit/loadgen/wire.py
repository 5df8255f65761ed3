"""Bytes of responses, made by hand."""

import json

from vllm_ci.loadgen.exchange import Exchange
from vllm_ci.loadgen.stream import Stream

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(body: object) -> bytes:
    return b"data: " + (body if isinstance(body, bytes) else json.dumps(body).encode()) + b"\n\n"


def chat(delta: dict[str, object], *, finish: str | None = None, index: int = 0, **extra: object) -> dict[str, object]:
    """A chat chunk with one choice."""
    choice: dict[str, object] = {"index": index, "delta": delta, "finish_reason": finish}
    ids = extra.pop("token_ids", None)
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice | ({"token_ids": ids} if ids else {})], **extra}


def usage(prompt: int, completion: int) -> dict[str, object]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


ROLE = chat({"role": "assistant", "content": ""})
USAGE: dict[str, object] = {"id": "c", "choices": [], "usage": usage(3, 2)}
DONE = b"[DONE]"
GOOD: list[object] = [ROLE, chat({"content": "a"}), chat({"content": "b"}, finish="stop"), USAGE, DONE]


def recorded(*reads: bytes, stopped: bool = False, closed: bool = False, method: str = "POST") -> Exchange:
    """An exchange sent at clock 0 whose reads came 1 ms apart."""
    return Exchange(
        method=method,
        path="/v1/chat/completions",
        begun_ns=0,
        sent_ns=0,
        ended_ns=len(reads) * 1_000_000,
        clocks_ns=tuple((number + 1) * 1_000_000 for number in range(len(reads))),
        data=reads,
        stopped=stopped,
        closed=closed,
    )


def stream_of(*bodies: object) -> Stream:
    """A stream whose head comes at 1 ms and whose events come 1 ms apart after it."""
    return Stream(exchange=recorded(HEAD, *(http_chunk(event(body)) for body in bodies), LAST))
