"""Helpers for the streaming cases: the two streaming endpoints, and a record of all streams."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_ci.loadgen.exchange import Exchange
from vllm_ci.loadgen.metrics import Distribution
from vllm_ci.loadgen.recorder import Recorder
from vllm_ci.loadgen.stream import Stream

Body = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An endpoint that streams.

    Attributes:
        name: ``chat`` or ``completions``.
        path: Its path.
        chunk_object: ``object`` of its chunks.
        model: Served name to request.
        token_ids: The server returns token ids on request.
    """

    name: str
    path: str
    chunk_object: str
    model: str
    token_ids: bool

    @property
    def is_chat(self) -> bool:
        """Whether it takes messages."""
        return self.name == "chat"

    def body(self, prompt: str | Sequence[Body], **parameters: Any) -> dict[str, Any]:
        """A request body; for chat, ``prompt`` becomes a user message."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        asked = {"messages": messages} if self.is_chat else {"prompt": prompt}
        ids = {"return_token_ids": True} if self.token_ids else {}
        return {"model": self.model, **asked, **ids, **parameters}

    def said(self, answer: Exchange) -> tuple[str, list[int] | None]:
        """Text and token ids of a response without streaming."""
        body = answer.json()
        assert isinstance(body, dict), f"the response is not a JSON object: {answer.text[:300]}"
        choice = body["choices"][0]
        text = choice["message"]["content"] if self.is_chat else choice["text"]
        return text or "", choice.get("token_ids")


@dataclass(kw_only=True)
class Asking:
    """Requests streams that must succeed, and keeps them for the metrics in the report.

    Attributes:
        recorder: The measuring client.
        kept: Streams that succeeded.
    """

    recorder: Recorder
    kept: list[Stream] = field(default_factory=list)

    def stream(self, endpoint: Endpoint, body: Body) -> Stream:
        """Request one stream; the case fails unless it is complete."""
        stream = self.recorder.stream(endpoint.path, body)
        assert stream.complete, stream.describe()
        self.kept.append(stream)
        return stream

    def streams(self, endpoint: Endpoint, bodies: Sequence[Body], *, limit: int | None = None) -> tuple[Stream, ...]:
        """Request concurrent streams, in the order of ``bodies``; the case fails unless all are complete."""
        streams = self.recorder.streams(endpoint.path, bodies, limit=limit)
        broken = [f"stream {number}: {stream.describe()}" for number, stream in enumerate(streams) if not stream.complete]
        assert not broken, f"{len(broken)} of {len(streams)} concurrent streams failed; {broken[0]}"
        self.kept += streams
        return streams

    def whole(self, endpoint: Endpoint, body: Body) -> Exchange:
        """Send the same request without streaming; it must succeed."""
        answer = self.recorder.post(endpoint.path, dict(body))
        assert answer.ok, answer.describe()
        return answer


def figures(streams: Iterable[Stream]) -> dict[str, Any]:
    """Metrics of streams for the report: those of a single stream, or distributions over several."""
    metrics = [stream.metrics for stream in streams]
    if len(metrics) == 1:
        return metrics[0].properties()
    found: dict[str, Any] = {"streams": len(metrics)} if metrics else {}
    for name in ("ttft_ms", "tpot_ms", "output_tokens_per_s", "chunks", "e2e_ms"):
        values = [value for each in metrics if (value := getattr(each, name)) is not None]
        if values:
            found |= Distribution.of(values).properties(name)
    gaps = [gap for each in metrics for gap in each.inter_chunk_latency_ms]
    return found | (Distribution.of(gaps).properties("inter_chunk_latency_ms") if gaps else {})
