"""Fixtures of the streaming suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vllm_ci.loadgen.recorder import Recorder
from vllm_ci.suites.integration.conftest import blankless
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.streaming.asking import Asking, Endpoint, figures

__all__ = ["blankless"]

_ENDPOINTS = {
    "chat": ("/v1/chat/completions", "chat.completion.chunk"),
    "completions": ("/v1/completions", "text_completion"),
}


@pytest.fixture(
    scope="session", params=[pytest.param(name, marks=pytest.mark.requires_capability(name)) for name in _ENDPOINTS]
)
def endpoint(request: pytest.FixtureRequest, server: ServerFacts) -> Endpoint:
    """Each streaming endpoint in turn."""
    path, chunk_object = _ENDPOINTS[request.param]
    return Endpoint(name=request.param, path=path, chunk_object=chunk_object, server=server)


@pytest.fixture(scope="session")
def everything(sse: Recorder, note: Callable[[str, Any], None]) -> Iterator[Asking]:
    """Collects all streams of the session; their metrics go into the report as distributions."""
    asking = Asking(recorder=sse)
    yield asking
    note("streaming", figures(asking.kept))


@pytest.fixture
def ask(everything: Asking, metric: Callable[[str, Any], None]) -> Iterator[Asking]:
    """Requests streams; the metrics of a case's streams become properties of the case."""
    asking = Asking(recorder=everything.recorder, timeouts=everything.timeouts)
    yield asking
    everything.kept += asking.kept
    for name, value in figures(asking.kept).items():
        metric(name, value)
