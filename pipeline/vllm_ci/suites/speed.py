"""Measures the speed of a server with a few short streams."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from vllm_ci.loadgen.recorder import Recorder
from vllm_ci.loadgen.stream import Stream

_BOUND_S = 10.0
"""Longest time for each stream; the tokens received by then are enough for the measurement."""
_SLOW_S = 3.0
"""A stream that takes longer than this is not repeated."""
_TRIES = 3
_TOKENS = 12
_CROWD = 8
_LONG_WORDS = 120
_REFUSED = (400, 404, 422)
LARGEST_SLOWNESS = 10.0
"""Timeouts are not extended further than this, so that a server that hangs ends a run."""
REFERENCE_S = 1.0
"""Time for sixteen concurrent short requests on most servers; timeouts are extended on slower ones."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Measured times in seconds.

    Attributes:
        request_s: Time to first token of a single request with a short prompt.
        step_s: Time for each further token of a single stream.
        crowd: Number of concurrent streams in the second measurement.
        crowd_request_s: Time to first token of the slowest of them.
        crowd_step_s: Time for each further token of each of them.
        prompt_token_s: Time for each prompt token beyond a short prompt.
        short_prompt_tokens: Length of a short prompt, in tokens.
    """

    request_s: float
    step_s: float
    crowd: int = _CROWD
    crowd_request_s: float
    crowd_step_s: float
    prompt_token_s: float
    short_prompt_tokens: int = 12

    def request(self, streams: float) -> float:
        """Seconds until this many concurrent requests have their first token."""
        return self._at(streams, self.request_s, self.crowd_request_s)

    def step(self, streams: float) -> float:
        """Seconds for one more token of each of this many concurrent streams."""
        return self._at(streams, self.step_s, self.crowd_step_s)

    @property
    def slowness(self) -> float:
        """Factor by which timeouts are extended on a slow server, from 1 to :data:`LARGEST_SLOWNESS`."""
        return min(max(1.0, self.request(16) / REFERENCE_S), LARGEST_SLOWNESS)

    def scaled(self, factor: float) -> Speed:
        """The speed with all times multiplied by ``factor``."""
        return replace(
            self,
            request_s=self.request_s * factor,
            step_s=self.step_s * factor,
            crowd_request_s=self.crowd_request_s * factor,
            crowd_step_s=self.crowd_step_s * factor,
            prompt_token_s=self.prompt_token_s * factor,
        )

    @property
    def facts(self) -> dict[str, float]:
        """For the report."""
        return {
            "ttft_ms": round(self.request_s * 1000, 1),
            "tokens_per_s": round(1 / self.step_s, 1) if self.step_s else 0.0,
            "streams": self.crowd,
            "tokens_per_s_together": round(self.crowd / self.crowd_step_s, 1) if self.crowd_step_s else 0.0,
            "prompt_tokens_per_s": round(1 / self.prompt_token_s, 1) if self.prompt_token_s else 0.0,
        }

    def _at(self, streams: float, alone: float, together: float) -> float:
        """Linear interpolation between both measurements; several streams never take less time than one."""
        slope = max(together - alone, 0.0) / (self.crowd - 1)
        return alone + slope * (streams - 1)


@dataclass(frozen=True, kw_only=True)
class Unmeasured:
    """The speed could not be measured; ``why`` is the reason."""

    why: str


def measure(recorder: Recorder, *, model: str, chat: bool, max_model_len: int = 0) -> Speed | Unmeasured:
    """Measure a server; takes about a second on most servers, and at most half a minute.

    A single stream is measured three times, and the median is used, because a busy machine can slow down any of them.

    Tokens are counted by the usage in the stream, or by chunks if there is none. If the server refuses the request, it is sent
    again without vLLM's extensions; if it refuses that too, the speed is not measured.

    Args:
        recorder: The measuring client.
        model: Served name.
        chat: Use chat completions instead of completions.
        max_model_len: Longest sequence in tokens; 0 when unknown.
    """
    ask = _Asker(recorder=recorder, model=model, chat=chat)
    alone = ask.stream(_TOKENS)
    if alone.exchange.status in _REFUSED:
        ask.extensions = {}
        alone = ask.stream(_TOKENS)
    if not _well(alone):
        return Unmeasured(why=alone.describe())
    tries = [alone]
    while len(tries) < _TRIES and tries[-1].exchange.seconds < _SLOW_S:
        tries.append(ask.stream(_TOKENS))
    seen = [_times(each, _TOKENS) for each in tries if _well(each)] or [_times(alone, _TOKENS)]
    request_s, step_s = median(first for first, _ in seen), median(step for _, step in seen)
    crowd = [each for each in ask.crowd(_TOKENS) if _well(each)]
    if len(crowd) > 1:
        times = [_times(each, _TOKENS) for each in crowd]
        together, first_s, each_s = len(crowd), max(first for first, _ in times), median(step for _, step in times)
    else:  # there may be a rate limit: assume that requests are processed one after the other
        together, first_s, each_s = _CROWD, request_s * _CROWD, step_s * _CROWD
    short = alone.metrics.prompt_tokens or Speed.short_prompt_tokens
    words = min(_LONG_WORDS, max_model_len // 16) if max_model_len else _LONG_WORDS
    prompt_token_s = _prompt_token_s(ask.stream(1, words=words), request_s, short, 4 * words)
    return Speed(
        request_s=max(request_s, step_s),  # a response without streaming includes the first token
        step_s=step_s,
        crowd=together,
        crowd_request_s=max(first_s, each_s),
        crowd_step_s=each_s,
        prompt_token_s=prompt_token_s,
        short_prompt_tokens=short,
    )


class _Asker:
    """Sends the streams of the measurement."""

    def __init__(self, *, recorder: Recorder, model: str, chat: bool) -> None:
        self._recorder = recorder
        self._model = model
        self._chat = chat
        self._path = "/v1/chat/completions" if chat else "/v1/completions"
        self.extensions: dict[str, Any] = {"ignore_eos": True}

    def stream(self, tokens: int, *, words: int = 1) -> Stream:
        return self._recorder.stream(self._path, self._body(tokens, words), stop_after_s=_BOUND_S)

    def crowd(self, tokens: int) -> tuple[Stream, ...]:
        bodies = [self._body(tokens, 1) for _ in range(_CROWD)]
        return self._recorder.streams_of([self._recorder.streaming(self._path, each, stop_after_s=_BOUND_S) for each in bodies])

    def _body(self, tokens: int, words: int) -> dict[str, Any]:
        # No word is repeated, so that prefix caches have no effect.
        text = " ".join(secrets.token_hex(3) for _ in range(words))
        said: dict[str, Any] = {"messages": [{"role": "user", "content": text}]} if self._chat else {"prompt": text}
        return {"model": self._model, **said, "max_tokens": tokens, "temperature": 0, **self.extensions}


def _well(stream: Stream) -> bool:
    return 200 <= stream.exchange.status < 300 and stream.error is None


def _times(stream: Stream, asked: int) -> tuple[float, float]:
    """Seconds to the first token, and for each one after it."""
    took_s = stream.exchange.seconds
    if (first_ms := stream.metrics.ttft_ms) is None:  # no token within the time limit
        return took_s, took_s / asked
    first_s = first_ms / 1000
    if stream.metrics.tpot_ms is not None:
        return first_s, stream.metrics.tpot_ms / 1000
    tokens = stream.metrics.output_tokens or stream.metrics.chunks
    return first_s, max(took_s - first_s, 0.0) / max(tokens - 1, 1)


def _prompt_token_s(stream: Stream, request_s: float, short: int, guessed: int) -> float:
    """Seconds for each token of a long prompt; 0 if the server refused it."""
    if not _well(stream):
        return 0.0
    took_s = (stream.metrics.ttft_ms or stream.exchange.seconds * 1000) / 1000
    return max(took_s - request_s, 0.0) / max((stream.metrics.prompt_tokens or guessed) - short, 1)
