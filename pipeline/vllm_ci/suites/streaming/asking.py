"""How the cases ask for streams: the two endpoints of the wire format that stream, and a place where every stream is kept."""

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
        path: Where it is.
        chunk_object: ``object`` of its chunks.
        model: Served name that is asked for.
        token_ids: The server returns token ids when asked to.
    """

    name: str
    path: str
    chunk_object: str
    model: str
    token_ids: bool

    @property
    def is_chat(self) -> bool:
        """It takes messages."""
        return self.name == "chat"

    def body(self, prompt: str | Sequence[Body], **parameters: Any) -> dict[str, Any]:
        """A request, with ``prompt`` as the user's message where messages are taken."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        asked = {"messages": messages} if self.is_chat else {"prompt": prompt}
        ids = {"return_token_ids": True} if self.token_ids else {}
        return {"model": self.model, **asked, **ids, **parameters}

    def said(self, answer: Exchange) -> tuple[str, list[int] | None]:
        """Text and token ids of an answer in one piece."""
        body = answer.json()
        assert isinstance(body, dict), f"the answer is no JSON object: {answer.text[:300]}"
        choice = body["choices"][0]
        text = choice["message"]["content"] if self.is_chat else choice["text"]
        return text or "", choice.get("token_ids")


@dataclass(kw_only=True)
class Asking:
    """Asks for streams that have to succeed and keeps them, for the figures in the report.

    Attributes:
        recorder: The measuring client.
        kept: Streams that succeeded.
    """

    recorder: Recorder
    kept: list[Stream] = field(default_factory=list)

    def stream(self, endpoint: Endpoint, body: Body) -> Stream:
        """One stream; it comes to its proper end, or the case fails and says what was missing."""
        stream = self.recorder.stream(endpoint.path, body)
        assert stream.complete, stream.describe()
        self.kept.append(stream)
        return stream

    def streams(self, endpoint: Endpoint, bodies: Sequence[Body], *, limit: int | None = None) -> tuple[Stream, ...]:
        """Streams at once, in the order of ``bodies``; each comes to its proper end."""
        streams = self.recorder.streams(endpoint.path, bodies, limit=limit)
        broken = [f"stream {number}: {stream.describe()}" for number, stream in enumerate(streams) if not stream.complete]
        assert not broken, f"{len(broken)} of {len(streams)} concurrent streams did not succeed; {broken[0]}"
        self.kept += streams
        return streams

    def whole(self, endpoint: Endpoint, body: Body) -> Exchange:
        """The same request without streaming; it has to succeed."""
        answer = self.recorder.post(endpoint.path, dict(body))
        assert answer.ok, answer.describe()
        return answer


def figures(streams: Iterable[Stream]) -> dict[str, Any]:
    """What a report says about streams: the figures of one, the distributions over several."""
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
