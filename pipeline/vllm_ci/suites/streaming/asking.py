"""Helpers for the streaming cases: the two streaming endpoints, and a record of all streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from vllm_ci.loadgen.exchange import Exchange, Request
from vllm_ci.loadgen.metrics import Distribution
from vllm_ci.loadgen.recorder import Recorder
from vllm_ci.loadgen.stream import Stream
from vllm_ci.suites.refusals import RefusedAloneError, asks_to_wait
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.streaming.causes import (
    CUT,
    INTERRUPTED,
    TIMEOUT,
    BrokenStreamError,
    SlowServerError,
    StreamFault,
    StreamsHangError,
    fatal,
    timed_out,
)

Body = Mapping[str, Any]
_MOST_TIMEOUTS = 2
_MOST_FORGIVEN = 4


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An endpoint that streams.

    Attributes:
        name: ``chat`` or ``completions``.
        path: Its path.
        chunk_object: ``object`` of its chunks.
        server: What the server supports; requests use only that.
    """

    name: str
    path: str
    chunk_object: str
    server: ServerFacts

    @property
    def model(self) -> str:
        """Served name to request."""
        return self.server.model

    @property
    def exact(self) -> bool:
        """Whether answers of :meth:`exactly` always have that many tokens.

        Another server than vLLM may ignore ``ignore_eos``, and the model of the probe went on by itself.
        """
        return self.server.is_vllm and self.server.can("ignore_eos")

    @property
    def is_chat(self) -> bool:
        """Whether it takes messages."""
        return self.name == "chat"

    def body(self, prompt: str | Sequence[Body], **parameters: Any) -> dict[str, Any]:
        """A request body; for chat, ``prompt`` becomes a user message."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        asked = {"messages": messages} if self.is_chat else {"prompt": prompt}
        ids = {"return_token_ids": True} if self.server.can("token_ids") else {}
        return {"model": self.model, **asked, **ids, **parameters}

    def exactly(self, prompt: str | Sequence[Body], tokens: int, **parameters: Any) -> dict[str, Any]:
        """A body for an answer of this many tokens; of at most this many unless :attr:`exact`."""
        known = {"ignore_eos": True} if self.server.can("ignore_eos") else {}
        return self.body(prompt, max_tokens=tokens, **known, **parameters)

    def counts(self, found: int, asked: int) -> bool:
        """Whether a number of tokens is right for :meth:`exactly`."""
        return found == asked if self.exact else 0 <= found <= asked

    def wrong_counts(self, streams: Iterable[Stream], asked: Iterable[int]) -> str:
        """Which streams of :meth:`exactly` have a wrong number of tokens; empty if none has, or nobody counts.

        Without ``ignore_eos`` an answer may be shorter. Chunks are not counted: one may have several tokens, or a part of one.
        """
        pairs = [(tokens_of(stream), wanted) for stream, wanted in zip(streams, asked, strict=True)]
        wrong = [
            (number, count, wanted)
            for number, (count, wanted) in enumerate(pairs)
            if count is not None and not self.counts(count, wanted)
        ]
        if not wrong:
            return ""
        number, count, wanted = wrong[0]
        bound = "exactly" if self.exact else "at most"
        tokens = f"stream {number} has {count} tokens, not {bound} {wanted}"
        return f"{len(wrong)} of {len(pairs)} streams have a wrong length: {tokens}"

    def said(self, answer: Exchange) -> tuple[str, list[int] | None]:
        """Text and token ids of a response without streaming."""
        choice = first_choice(answer)
        message = choice.get("message") if self.is_chat else choice
        assert isinstance(message, dict), f"the response has no message: {answer.text[:300]}"
        return str(message.get("content" if self.is_chat else "text") or ""), choice.get("token_ids")


def first_choice(answer: Exchange) -> dict[str, Any]:
    """The first choice of a response without streaming."""
    try:
        body = answer.json()
    except ValueError as error:
        raise AssertionError(f"the response is not JSON ({error}): {answer.text[:300]}") from error
    choices = body.get("choices") if isinstance(body, dict) else None
    assert isinstance(choices, list), f"the response has no list of choices: {answer.text[:300]}"
    assert choices, f"the response has no choice: {answer.text[:300]}"
    assert isinstance(choices[0], dict), f"the first choice is not an object: {answer.text[:300]}"
    return choices[0]


def usage_of(answer: Exchange, name: str) -> int | None:
    """A number of the usage of a response without streaming; ``None`` if absent."""
    first_choice(answer)
    body: Any = answer.json()
    usage = body.get("usage")
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if isinstance(found, int) else None


def tokens_of(stream: Stream) -> int | None:
    """Number of tokens of a stream by its usage, or else by its token ids; ``None`` if it has neither."""
    if (counted := stream.metrics.output_tokens) is not None:
        return counted
    return len(stream.token_ids) if stream.token_ids is not None else None


@dataclass(kw_only=True)
class Asking:
    """Requests streams that must succeed, and keeps them for the metrics in the report.

    Attributes:
        recorder: The measuring client.
        kept: Streams that succeeded.
        timeouts: Streams that did not end in time, by endpoint; shared by all cases. After some of them no more are requested.
    """

    recorder: Recorder
    kept: list[Stream] = field(default_factory=list)
    timeouts: Counter[str] = field(default_factory=Counter)

    def stream(self, endpoint: Endpoint, body: Body, **options: Any) -> Stream:
        """Request one stream; the case fails unless it is complete. ``options`` are those of :meth:`Recorder.streaming`."""
        stream = self.attempt(endpoint, body, **options)
        self.need([stream])
        return stream

    def streams(self, endpoint: Endpoint, bodies: Sequence[Body], *, limit: int | None = None) -> tuple[Stream, ...]:
        """Request concurrent streams, in the order of ``bodies``; the case fails unless all are complete.

        Raises:
            StreamFault: Streams end early that are complete if they are requested alone.
            SlowServerError: The server is too slow to tell.
            BrokenStreamError: One is not complete for another reason.
        """
        streams = self.attempts(endpoint, bodies, limit=limit)
        if len(bodies) > 1:
            self._compare_with_one_alone(endpoint, bodies, streams)
        self.need(streams)
        return streams

    def _compare_with_one_alone(self, endpoint: Endpoint, bodies: Sequence[Body], streams: Sequence[Stream]) -> None:
        """Find out whether streams are broken only because others ran at the same time.

        Raises:
            StreamFault: They end early, and are complete alone.
            Inconclusive: They do not end in time because the server makes one after the other, and is slow.
        """
        problems = {at: found for at, stream in enumerate(streams) if (found := fatal(stream)) is not None}
        first = next((at for at, found in problems.items() if found.id.startswith((CUT, TIMEOUT))), None)
        if first is None:
            return
        alone = self.attempt(endpoint, bodies[first])
        if fatal(alone) is not None:
            return
        how = f"{len(problems)} of {len(streams)} concurrent streams {{}}, and the first of these is complete alone"
        if problems[first].id.startswith(CUT):
            raise StreamFault(INTERRUPTED, f"{how.format('end early')}: {streams[first].describe()}")
        one_s, limit_s = alone.exchange.seconds, streams[first].exchange.seconds
        if one_s * len(streams) > limit_s:
            after = (
                f"after {one_s:.1f} s: one after the other, {len(streams)} need more than the {limit_s:.0f} s that they have"
            )
            raise SlowServerError(f"{how.format('do not end in time')} {after}")

    def attempt(self, endpoint: Endpoint, body: Body, **options: Any) -> Stream:
        """Request one stream, which may fail.

        Raises:
            StreamsHangError: Earlier streams of this endpoint did not end.
        """
        return self.attempts_of(endpoint, [self.recorder.streaming(endpoint.path, body, **options)])[0]

    def attempts(self, endpoint: Endpoint, bodies: Sequence[Body], *, limit: int | None = None) -> tuple[Stream, ...]:
        """Request concurrent streams, which may fail."""
        return self.attempts_of(endpoint, [self.recorder.streaming(endpoint.path, body) for body in bodies], limit=limit)

    def attempts_of(self, endpoint: Endpoint, requests: Sequence[Request], *, limit: int | None = None) -> tuple[Stream, ...]:
        """Like :meth:`attempts`, with requests of the recorder."""
        if self.timeouts[endpoint.path] >= _MOST_TIMEOUTS:
            raise StreamsHangError(endpoint.path, _MOST_TIMEOUTS)
        streams = self.recorder.streams_of(requests, limit=limit)
        if any(timed_out(stream) for stream in streams):
            self.timeouts[endpoint.path] += 1
            self._forgive(endpoint)
        return streams

    def _forgive(self, endpoint: Endpoint) -> None:
        """Do not count a timeout of a server that is only slow: it still answers a stream of one token.

        Only so many times, because each costs the time of a timeout.
        """
        if self.timeouts[endpoint.path] < _MOST_TIMEOUTS or self.timeouts[f"{endpoint.path} forgiven"] >= _MOST_FORGIVEN:
            return
        smallest = self.recorder.streaming(endpoint.path, endpoint.body("hello", max_tokens=1))
        if not any(map(timed_out, self.recorder.streams_of([smallest]))):
            self.timeouts[endpoint.path] -= 1
            self.timeouts[f"{endpoint.path} forgiven"] += 1

    def need(self, streams: Sequence[Stream]) -> None:
        """Check that streams are complete, and keep them.

        Missing usage and ``[DONE]`` do not count here: a case for each names them.

        Raises:
            BrokenStreamError: One is not complete.
        """
        broken = [(number, problem) for number, stream in enumerate(streams) if (problem := fatal(stream)) is not None]
        if broken:
            number, problem = broken[0]
            how = f"{len(broken)} of {len(streams)} streams failed; stream {number}: " if len(streams) > 1 else ""
            raise BrokenStreamError(problem, how + streams[number].describe())
        self.kept += streams

    def whole(self, endpoint: Endpoint, body: Body) -> Exchange:
        """Send the same request without streaming; it must succeed."""
        answer = self.recorder.post(endpoint.path, dict(body))
        not_refused_alone([answer])
        assert answer.ok, answer.describe()
        return answer


def not_refused_alone(answers: Iterable[Exchange]) -> None:
    """Check that no request is refused for being one too many, after a rate limit of everything was waited for.

    Raises:
        RefusedAloneError: One is.
    """
    for answer in answers:
        if asks_to_wait(answer.status, answer.headers.get("retry-after")):
            raise RefusedAloneError(f"refused again and again, while others are served: {answer.describe()}")


def unlike(first: object, second: object) -> None:
    """End the case as inconclusive if a server gave different responses to the same request."""
    if first != second:
        pytest.skip("the server gives different responses to the same request, so there is nothing to compare")


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
