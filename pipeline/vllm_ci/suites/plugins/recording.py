"""The fixture ``sse``: the measuring client, for tests that stream or check timing and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from vllm_ci.loadgen.recorder import Recorder
from vllm_ci.loadgen.stream import Stream
from vllm_ci.suites import connecting
from vllm_ci.suites.server import ServerFacts

_SHARE = 1 / 3
"""Share of the time budget that one stream may take, unless the server is slow."""


@pytest.fixture(scope="session")
def sse(pytestconfig: pytest.Config, server: ServerFacts, answer_s: float) -> Iterator[Recorder]:
    """The recorder, with the server's URL and key; it requests token counts in every chunk if the server supports them."""
    with connecting.recorder(pytestconfig, server.url, answer_s, total_s=_stream_s(pytestconfig, answer_s)) as recorder:
        recorder.continuous_usage = _counts_every_chunk(recorder, server)
        yield recorder


def _stream_s(config: pytest.Config, answer_s: float) -> float:
    """Longest time of one stream: a share of the budget, or more on a server that was measured to be slow."""
    if config.option.vllm_timeout is not None or not config.option.vllm_budget:
        return 2 * answer_s
    planner: Any = config.pluginmanager.get_plugin("vllm-ci-planner")
    return float(min(max(_SHARE * config.option.vllm_budget, planner.longest_s), 2 * answer_s))


def _counts_every_chunk(recorder: Recorder, server: ServerFacts) -> bool:
    """Whether the server supports ``continuous_usage_stats``; neither a refusal nor ignoring it is an error."""
    if not server.can("stream_usage") or not (server.can("chat") or server.can("completions")):
        return False
    chat = server.can("chat")
    said: dict[str, object] = {"messages": [{"role": "user", "content": "hello"}]} if chat else {"prompt": "hello"}
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"model": server.model, "max_tokens": 4, "temperature": 0, "stream_options": options, **said}
    return counts_every_chunk(recorder.stream("/v1/chat/completions" if chat else "/v1/completions", body))


def counts_every_chunk(stream: Stream) -> bool:
    """Whether chunks before the last one with a choice have usage; on the last one, some servers send it always."""
    with_choices = [chunk for chunk in stream.chunks if chunk.choices]
    return len(with_choices) > 1 and all(chunk.usage is not None for chunk in with_choices[:-1])
