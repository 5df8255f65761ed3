"""The official SDK works with the server without changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vllm_ci.suites.integration.asking import ENDS, required_of_vllm
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.verdicts import Fault

if TYPE_CHECKING:
    import openai


def test_lists_models(openai_client: openai.OpenAI, server: ServerFacts) -> None:
    """`client.models.list()`."""
    import openai  # imported here because it takes a second

    try:
        names = [model.id for model in openai_client.models.list()]
    except (openai.NotFoundError, openai.PermissionDeniedError) as error:
        pytest.skip(f"the server has no list of models: {error}")
    assert server.model in names, f"the model {server.model!r} is not in the SDK's list: {names[:5]}"


@pytest.mark.requires_capability("chat")
def test_chats(openai_client: openai.OpenAI, server: ServerFacts) -> None:
    """`client.chat.completions.create()`."""
    answer = openai_client.chat.completions.create(
        model=server.model, messages=[{"role": "user", "content": "hello"}], max_tokens=3
    )
    assert answer.choices, "the SDK returns no choice"
    assert answer.choices[0].message.role == "assistant", f"role is {answer.choices[0].message.role!r}"
    assert answer.usage is not None or not server.can("usage"), "the SDK returns no usage"


@pytest.mark.requires_capability("completions")
def test_completes(openai_client: openai.OpenAI, server: ServerFacts) -> None:
    """`client.completions.create()`."""
    answer = openai_client.completions.create(model=server.model, prompt="hello", max_tokens=3)
    assert answer.choices, "the SDK returns no choice"
    assert answer.choices[0].finish_reason in ENDS, f"finish_reason is {answer.choices[0].finish_reason!r}"


@pytest.mark.requires_capability("chat")
def test_streams(openai_client: openai.OpenAI, server: ServerFacts) -> None:
    """`stream=True` yields chunks, with the usage if the server sends it; the streaming suite requires it."""
    options = {"stream_options": {"include_usage": True}} if server.can("stream_usage") else {}
    with openai_client.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=4,
        stream=True,
        extra_body=options,
    ) as stream:
        chunks = list(stream)
    assert any(choice.finish_reason for chunk in chunks for choice in chunk.choices), "no chunk has a finish reason"
    assert not options or any(chunk.usage is not None for chunk in chunks), "the stream has no usage, although it was requested"


@pytest.mark.requires_capability("chat")
def test_raises_its_own_errors(openai_client: openai.OpenAI, server: ServerFacts) -> None:
    """Client code catches the SDK's exceptions, which depend on statuses and bodies."""
    hello: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
    refused = _raised(openai_client, model=server.model, messages=hello, temperature=-1)
    unknown = _raised(openai_client, model="no-such-model", messages=hello)
    for what, error in (("temperature -1", refused), ("an unknown model", unknown)):
        if error is None:
            required_of_vllm(server, holds=False, message=f"{what} is not refused")
        elif error.status_code >= 500:
            raise Fault(f"{what} raises {type(error).__name__}, which clients retry: {error.message[:200]}")
        assert error is None or error.message, f"the SDK's exception for {what} has no message"


def _raised(sdk: openai.OpenAI, **asked: object) -> openai.APIStatusError | None:
    """The exception of a chat with an invalid request."""
    import openai

    try:
        sdk.chat.completions.create(max_tokens=1, **asked)  # type: ignore[call-overload]
    except openai.APIStatusError as error:
        return error
    return None
