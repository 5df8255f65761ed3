"""The official SDK works with the server without changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vllm_ci.suites.server import ServerFacts

if TYPE_CHECKING:
    import openai


def test_lists_models(openai_client: openai.OpenAI, server: ServerFacts) -> None:
    """`client.models.list()`."""
    assert server.model in [model.id for model in openai_client.models.list()], "the model is not in the SDK's list"


@pytest.mark.requires_capability("chat")
def test_chats(openai_client: openai.OpenAI, server: ServerFacts) -> None:
    """`client.chat.completions.create()`."""
    answer = openai_client.chat.completions.create(
        model=server.model, messages=[{"role": "user", "content": "hello"}], max_tokens=3
    )
    assert answer.choices[0].message.role == "assistant", f"role is {answer.choices[0].message.role!r}"
    assert answer.usage is not None, "the SDK returns no usage"


@pytest.mark.requires_capability("completions")
def test_completes(openai_client: openai.OpenAI, server: ServerFacts) -> None:
    """`client.completions.create()`."""
    answer = openai_client.completions.create(model=server.model, prompt="hello", max_tokens=3)
    assert answer.choices[0].finish_reason in ("stop", "length"), f"finish_reason is {answer.choices[0].finish_reason!r}"


@pytest.mark.requires_capability("chat")
def test_streams(openai_client: openai.OpenAI, server: ServerFacts) -> None:
    """`stream=True` yields chunks; the last one has the usage."""
    with openai_client.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=4,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)
    assert any(choice.finish_reason for chunk in chunks for choice in chunk.choices), "no chunk has a finish reason"
    assert chunks[-1].usage is not None, "the last chunk has no usage"


@pytest.mark.requires_capability("chat")
def test_raises_its_own_errors(openai_client: openai.OpenAI, server: ServerFacts) -> None:
    """Client code catches the SDK's exceptions, which depend on statuses and bodies."""
    import openai  # imported here because it takes a second

    hello: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
    with pytest.raises(openai.NotFoundError):
        openai_client.chat.completions.create(model="no-such-model", messages=hello)
    with pytest.raises(openai.BadRequestError) as refused:
        openai_client.chat.completions.create(model=server.model, messages=hello, temperature=-1)
    assert refused.value.message, "the SDK's exception has no message"
