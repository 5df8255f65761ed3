"""The synchronous interface of the measuring client, for pytest suites."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from vllm_ci.loadgen import patience as patient
from vllm_ci.loadgen.client import Client, new_loop
from vllm_ci.loadgen.exchange import Exchange, Headers, Request, Timeouts
from vllm_ci.loadgen.patience import Patience
from vllm_ci.loadgen.stream import Stream

Body = Mapping[str, object]
_Result = TypeVar("_Result")


class Recorder:
    """Sends requests and records the responses; concurrent requests share one event loop.

    Args:
        base_url: ``http://host:port``, with a path prefix if the server has one.
        headers: Sent with every request.
        tls: Context for https; by default the system's trust store.
        timeouts: Limits of requests that do not set their own.
        keep_alive: Reuse connections; otherwise each request opens its own.
        continuous_usage: Request token counts in every chunk (``stream_options.continuous_usage_stats``, a vLLM extension; some
            servers refuse unknown fields).
        include_usage: Request usage (``stream_options.include_usage``); some servers refuse the field.
        patience: Repeats requests after a reset of a kept connection, and waits for rate limits; without it nothing is.

    Raises:
        UsageError: ``base_url`` is not an http or https URL.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Headers | None = None,
        tls: ssl.SSLContext | None = None,
        timeouts: Timeouts | None = None,
        keep_alive: bool = True,
        continuous_usage: bool = False,
        include_usage: bool = True,
        patience: Patience | None = None,
    ) -> None:
        self.base_url = base_url
        self.continuous_usage = continuous_usage
        self.include_usage = include_usage
        self._patience = patience
        self._client = Client(base_url, headers=headers, tls=tls, timeouts=timeouts, keep_alive=keep_alive)
        self._runner = asyncio.Runner(loop_factory=new_loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and the event loop."""

        async def drop() -> None:
            self._client.close()
            await asyncio.sleep(0)  # transports close in the next iteration of the loop

        self._run(drop())
        self._runner.close()

    def _run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        return self._runner.run(coroutine)

    def send(self, request: Request) -> Exchange:
        """Send one request, exactly as given."""
        return self._run(self._sent(request))

    def gather(self, requests: Sequence[Request], *, limit: int | None = None) -> tuple[Exchange, ...]:
        """Send ``requests`` concurrently, at most ``limit`` at a time; results in the same order."""
        return self._run(self._client.gather(requests, limit=limit, send=self._sent))

    async def _sent(self, request: Request) -> Exchange:
        if self._patience is None:
            return await self._client.send(request)
        return await patient.send(self._client, request, self._patience)

    def get(self, path: str, *, headers: Headers | None = None, timeouts: Timeouts | None = None) -> Exchange:
        """Send a GET."""
        return self.send(Request(path=path, headers=headers or {}, timeouts=timeouts))

    def post(self, path: str, body: object, *, headers: Headers | None = None, timeouts: Timeouts | None = None) -> Exchange:
        """Send a POST with ``body`` as JSON."""
        return self.send(Request.post(path, body, headers=headers, timeouts=timeouts))

    def posts(self, path: str, bodies: Sequence[object], *, limit: int | None = None) -> tuple[Exchange, ...]:
        """Send concurrent POSTs; responses in the order of ``bodies``."""
        return self.gather([Request.post(path, body) for body in bodies], limit=limit)

    def stream(
        self,
        path: str,
        body: Body,
        *,
        headers: Headers | None = None,
        stop_after_events: int | None = None,
        stop_after_s: float | None = None,
        timeouts: Timeouts | None = None,
    ) -> Stream:
        """Request a streamed completion; ``stream`` and ``stream_options`` are added unless ``body`` has them.

        Args:
            path: ``/v1/chat/completions`` or ``/v1/completions``.
            body: The request without ``stream``.
            headers: Headers in addition to the recorder's.
            stop_after_events: Disconnect after this many events.
            stop_after_s: Disconnect this many seconds after sending.
            timeouts: Replaces the recorder's timeouts.
        """
        request = self.streaming(
            path,
            body,
            headers=headers,
            stop_after_events=stop_after_events,
            stop_after_s=stop_after_s,
            timeouts=timeouts,
        )
        return Stream(exchange=self.send(request))

    def streams(self, path: str, bodies: Sequence[Body], *, limit: int | None = None) -> tuple[Stream, ...]:
        """Request concurrent streamed completions; streams in the order of ``bodies``."""
        return self.streams_of([self.streaming(path, body) for body in bodies], limit=limit)

    def streams_of(self, requests: Sequence[Request], *, limit: int | None = None) -> tuple[Stream, ...]:
        """Like :meth:`streams`, with requests from :meth:`streaming`."""
        return tuple(Stream(exchange=exchange) for exchange in self.gather(requests, limit=limit))

    def streaming(
        self,
        path: str,
        body: Body,
        *,
        headers: Headers | None = None,
        stop_after_events: int | None = None,
        stop_after_s: float | None = None,
        timeouts: Timeouts | None = None,
    ) -> Request:
        """The request that :meth:`stream` sends."""
        return Request.post(
            path,
            self.streamed(body),
            headers=headers,
            stop_after_events=stop_after_events,
            stop_after_s=stop_after_s,
            timeouts=timeouts,
        )

    def streamed(self, body: Body) -> dict[str, object]:
        """``body`` with the fields that request a stream, with usage if it is wanted; its own fields take precedence.

        ``stream_options`` of ``None`` is left out, because some servers refuse a null.
        """
        options = {"include_usage": True} | ({"continuous_usage_stats": True} if self.continuous_usage else {})
        asked = {"stream": True, **({"stream_options": options} if self.include_usage else {}), **body}
        return {name: value for name, value in asked.items() if name != "stream_options" or value is not None}
