"""What the suites hold and what their cases cost, recorded against the correct double, for ``suites/manifest.json``.

``PYTHONPATH=pipeline:tests python -m doubles.manifest`` runs every case once (those of the image and of
gRPC are only counted) and writes it.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import threading
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest

import vllm_ci.suites
from doubles.running import running
from doubles.server import Double
from vllm_ci.loadgen import client as loadgen
from vllm_ci.loadgen.exchange import Exchange
from vllm_ci.loadgen.stream import Stream
from vllm_ci.suites import client as suites_client
from vllm_ci.suites import manifest, raw
from vllm_ci.suites.plugins.reporter import case_name
from vllm_ci.suites.security import door

SUITES = Path(vllm_ci.suites.__file__).parent
FILE = SUITES / manifest.FILE
SERVED = ("integration", "streaming", "security")
_GENERATES = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")

Answer = tuple[int, int, int]
"""Answers that one request made, tokens of the longest of them, tokens of its prompts."""


class Unhurried(Double):
    """Slow enough that a case that asks for more until it takes some time does not ask for more than on a real server."""

    token_s = 0.006


class Ledger:
    """Which requests each case sends, and which of them at the same time."""

    def __init__(self) -> None:
        self.cases: Counter[str] = Counter()
        self.sent: dict[str, list[list[Answer]]] = defaultdict(list)
        self._case = ""
        self._group: list[Answer] | None = None
        self._lock = threading.Lock()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.cases = Counter(manifest.function_of(case_name(item.nodeid, item.location[0])) for item in session.items)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._case = manifest.function_of(case_name(item.nodeid, item.location[0]))

    def add(self, answer: Answer | None) -> None:
        if answer is None or not self._case:
            return
        with self._lock:
            if self._group is not None:
                self._group.append(answer)
            else:
                self.sent[self._case].append([answer])

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        self._group = []
        try:
            yield
        finally:
            if self._group and self._case:
                self.sent[self._case].append(self._group)
            self._group = None

    def rounds(self, function: str) -> list[list[float]]:
        """``[times, streams, tokens, prompt tokens]`` of each kind of round, as a mean over the cases of the function."""
        kinds: dict[tuple[int, int], list[int]] = defaultdict(list)
        for group in self.sent[function]:
            streams, prompts = sum(answer[0] for answer in group), sum(answer[2] for answer in group)
            kinds[streams, max(answer[1] for answer in group)].append(prompts)
        cases = self.cases[function]
        return [
            [round(len(prompts) / cases, 2), streams, tokens, round(sum(prompts) / len(prompts))]
            for (streams, tokens), prompts in sorted(kinds.items())
        ]


def main() -> int:
    """Write the file."""
    document = {suite: recorded(suite) for suite in SERVED} | {
        "unit": counted("unit", "inside"),
        "grpc": counted("grpc", "plugin", "--vllm-grpc", "127.0.0.1:1"),
    }
    FILE.write_text(rendered(document), encoding="utf-8")
    return 0


def rendered(document: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for each function, so that a change is one line of a diff."""
    suites = [
        f'"{suite}": {{\n' + ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items()) + "\n}"
        for suite, entries in document.items()
    ]
    return "{\n" + ",\n".join(suites) + "\n}\n"


def counted(suite: str, plugin: str, *options: str) -> dict[str, dict[str, Any]]:
    """Number of cases of each function."""
    ledger = Ledger()
    _pytest(ledger, "-p", f"vllm_ci.suites.{plugin}", "--collect-only", *options, str(SUITES / suite))
    return {name.partition("/")[2]: {"cases": count} for name, count in sorted(ledger.cases.items())}


def recorded(suite: str, *, without: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Number of cases of each function, and what one of them asks of a server; nothing of the files ``without``."""
    ledger = Ledger()
    with running(Unhurried) as (url, _), _recording(ledger):
        _pytest(
            ledger,
            "-p",
            "vllm_ci.suites.plugin",
            "-p",
            "no:timeout",
            "--vllm-budget",
            "0",
            "--base-url",
            url,
            *(f"--ignore={SUITES / suite / name}" for name in without),
            str(SUITES / suite),
        )
    return {
        name.partition("/")[2]: {"cases": count, "rounds": ledger.rounds(name)} for name, count in sorted(ledger.cases.items())
    }


def _pytest(ledger: Ledger, *arguments: str) -> None:
    output = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(output), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        common = ("-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", folder)
        pytest.main([*common, *arguments], plugins=[ledger])
    if not ledger.cases:
        raise RuntimeError(output.getvalue())


@contextlib.contextmanager
def _recording(ledger: Ledger) -> Iterator[None]:
    """See every request of the clients that the suites use, and which ones are sent together."""
    http_send, send, gather = httpx.Client.send, loadgen.Client.send, loadgen.Client.gather
    raw_send = raw.send

    def sent(self: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        answer = http_send(self, request, **options)
        streamed = bool(options.get("stream")) or answer.headers.get("content-type", "").startswith("text/event-stream")
        ledger.add(_answer(request.url.path, request.content, answer.status_code, None if streamed else answer.content))
        return answer

    async def sent_alone(self: loadgen.Client, request: Any) -> Exchange:
        exchange = await send(self, request)
        ledger.add(_exchanged(request, exchange))
        return exchange

    async def sent_together(self: loadgen.Client, requests: Sequence[Any], **options: Any) -> tuple[Exchange, ...]:
        with ledger.at_once():
            return await gather(self, requests, **options)

    def sent_raw(url: str, target: str, **options: Any) -> raw.RawResponse:
        answer = raw_send(url, target, **options)
        streamed = answer.kind == "text/event-stream"
        with contextlib.suppress(ValueError):  # a body that is no JSON makes no model run
            ledger.add(
                _answer(target.partition("?")[0], options.get("body", b""), answer.status, None if streamed else answer.body)
            )
        return answer

    class Pool(ThreadPoolExecutor):
        def map(self, fn: Callable[..., Any], *items: Any, **options: Any) -> Iterator[Any]:
            with ledger.at_once():
                return iter(list(super().map(fn, *items, **options)))

    with (
        mock.patch.object(httpx.Client, "send", sent),
        mock.patch.object(loadgen.Client, "send", sent_alone),
        mock.patch.object(loadgen.Client, "gather", sent_together),
        mock.patch.object(suites_client, "ThreadPoolExecutor", Pool),
        mock.patch.object(door, "ThreadPoolExecutor", Pool),
        mock.patch.object(door, "send", sent_raw),
    ):
        yield


def _exchanged(request: Any, exchange: Exchange) -> Answer | None:
    if b'"stream": true' not in request.body:
        return _answer(request.path, request.body, exchange.status, exchange.body)
    stream = Stream(exchange=exchange)
    body = stream.usage or {"completion_tokens": len(stream.chunks)}
    if exchange.stopped:  # how much came before we hung up is a matter of luck
        body = {**body, "completion_tokens": request.stop_after_events or 1}
    return _answer(request.path, request.body, exchange.status, json.dumps({"usage": body}).encode())


def _answer(path: str, asked: bytes, status: int, answered: bytes | None) -> Answer | None:
    """What a request made the server do; nothing where it was refused or makes no model run."""
    if path not in _GENERATES or status != 200:
        return None
    body = json.loads(asked)
    prompts = body.get("prompt", body.get("input"))
    several = len(prompts) if isinstance(prompts, list) and prompts and isinstance(prompts[0], str | list) else 1
    choices = several * (body.get("n") or 1)
    # A stream that was read like an answer, by a probe, has no usage here.
    usage = json.loads(answered).get("usage") or {} if answered is not None and answered.startswith(b"{") else {}
    made = usage.get("completion_tokens", body.get("max_tokens") or 16)
    return choices, -(-made // choices), usage.get("prompt_tokens", 0)


if __name__ == "__main__":
    sys.exit(main())
