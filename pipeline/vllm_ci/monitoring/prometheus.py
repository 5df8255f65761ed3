"""A Prometheus server, asked over its HTTP API (prometheus.io/docs/prometheus/latest/querying/api)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from vllm_ci.domain.errors import ErroredError, UsageError

_ATTEMPTS = 3
_TIMEOUT_S = 30.0
_LARGEST = 32 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    """A server.

    Attributes:
        url: Base URL, with the path prefix if it has one.
        token: Sent as a bearer token; empty: none.
        sleep: Waits between attempts.
    """

    url: str
    token: str = field(default="", repr=False)
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                f"{self.url!r} is not the URL of a Prometheus server",
                remedy="write it as http://HOST:9090, in monitoring.prometheus or with --prometheus",
            )

    @property
    def name(self) -> str:
        """For messages: without user and password."""
        parts = urlsplit(self.url)
        return f"Prometheus at {parts.hostname}{f':{parts.port}' if parts.port else ''}"

    def series(self, expr: str, *, start: float, end: float, step: float) -> dict[float, float]:
        """Values of an expression by time; times without one, NaN and infinities are left out.

        Args:
            expr: PromQL that gives one series or none.
            start: First time, in seconds since 1970.
            end: Last time.
            step: Between two.

        Raises:
            ErroredError: It cannot be reached, refused the query, or answered with more than one series.
        """
        parameters = {"query": expr, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        result = self._asked("query_range", parameters)
        if len(result) > 1:
            raise ErroredError(f"{self.name} answered with {len(result)} series, not with one", why=expr)
        try:
            values = {float(at): float(value) for at, value in (result[0]["values"] if result else ())}
        except (KeyError, TypeError, ValueError) as error:
            raise self._strange(str(error)) from error
        return {at: value for at, value in values.items() if math.isfinite(value)}

    def _asked(self, path: str, parameters: dict[str, str]) -> list[Any]:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        problem = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                self.sleep(2.0**attempt / 4)
            try:
                # POST: expressions may be longer than an address may be.
                with httpx.stream(
                    "POST", f"{self.url.rstrip('/')}/api/v1/{path}", data=parameters, headers=headers, timeout=_TIMEOUT_S
                ) as response:
                    body = _bounded(response)
            except (httpx.HTTPError, OSError) as error:
                problem = str(error) or type(error).__name__
                continue
            if response.status_code < 500 and response.status_code != 429:
                return self._read(response.status_code, body)
            problem = f"status {response.status_code}"
        raise ErroredError(
            f"{self.name} cannot be reached",
            why=problem,
            remedy="check monitoring.prometheus in vllm-ci.yaml, or name another server with --prometheus",
        )

    def _read(self, status: int, body: bytes) -> list[Any]:
        import json

        if status in (401, 403):
            raise ErroredError(
                f"{self.name} refused the request (status {status})",
                remedy="monitoring.token_env names the environment variable with its bearer token",
            )
        try:
            answer = json.loads(body)
        except ValueError as error:
            raise self._strange(f"status {status}, not JSON") from error
        if not isinstance(answer, dict) or answer.get("status") != "success":
            said = answer.get("error", "") if isinstance(answer, dict) else ""
            raise ErroredError(f"{self.name} refused a query (status {status})", why=str(said)[:500])
        data = answer.get("data")
        if not isinstance(data, dict) or data.get("resultType") != "matrix" or not isinstance(data.get("result"), list):
            raise self._strange("no matrix in its answer")
        result: list[Any] = data["result"]
        return result

    def _strange(self, why: str) -> ErroredError:
        return ErroredError(
            f"the answer of {self.name} cannot be read", why=why, remedy="check that the URL is that of a Prometheus server"
        )


def _bounded(response: httpx.Response) -> bytes:
    body = b""
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > _LARGEST:
            raise httpx.DecodingError(f"an answer of more than {_LARGEST // 2**20} MiB")
    return body
