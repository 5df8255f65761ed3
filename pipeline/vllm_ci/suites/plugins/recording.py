"""The fixture ``sse``: the measuring client, for tests that stream or check timing and bytes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vllm_ci.loadgen.recorder import Recorder
from vllm_ci.suites import connecting
from vllm_ci.suites.server import ServerFacts

_REFUSED = {400, 404, 422}


@pytest.fixture(scope="session")
def sse(pytestconfig: pytest.Config, server: ServerFacts, answer_s: float) -> Iterator[Recorder]:
    """The recorder, with the server's URL and key; it requests token counts in every chunk if the server supports them."""
    with connecting.recorder(pytestconfig, server.url, answer_s) as recorder:
        recorder.continuous_usage = _counts_every_chunk(recorder, server)
        yield recorder


def _counts_every_chunk(recorder: Recorder, server: ServerFacts) -> bool:
    """Whether the server supports ``continuous_usage_stats``; a refusal is not an error."""
    body: dict[str, object] = {"model": server.model, "max_tokens": 2, "temperature": 0}
    options = {"include_usage": True, "continuous_usage_stats": True}
    path = "/v1/chat/completions" if server.can("chat") else "/v1/completions"
    said: dict[str, object] = (
        {"messages": [{"role": "user", "content": "hello"}]} if server.can("chat") else {"prompt": "hello"}
    )
    stream = recorder.stream(path, {**body, **said, "stream_options": options})
    if stream.exchange.status in _REFUSED:
        return False
    return any(chunk.usage is not None and chunk.choices for chunk in stream.chunks)
