"""Long prompts are served up to the limit, and refused above it."""

from __future__ import annotations

import pytest

from vllm_ci.suites.client import ApiClient, shown
from vllm_ci.suites.server import ServerFacts

pytestmark = [pytest.mark.requires_capability("completions", "tokenize"), pytest.mark.fills_context]

# Longer prompts would take too long in these cases; the performance stage tests them.
_PATIENCE_TOKENS = 65_536


@pytest.fixture(scope="module")
def limit(server: ServerFacts) -> int:
    """Longest sequence in tokens."""
    if not server.max_model_len:
        pytest.skip("the server does not report the maximum length of a sequence")
    if server.max_model_len > _PATIENCE_TOKENS:
        pytest.skip(f"a prompt of {server.max_model_len} tokens takes too long for this case")
    return server.max_model_len


@pytest.fixture(scope="module")
def token(client: ApiClient) -> int:
    """Some plain token."""
    return client.tokens("hello")[-1]


@pytest.mark.deep
def test_a_prompt_at_the_limit_is_served(client: ApiClient, limit: int, token: int) -> None:
    """A prompt that is one token shorter than the limit leaves room for an answer of one token."""
    usage = client.complete([token] * (limit - 1), max_tokens=1)["usage"]
    assert usage["prompt_tokens"] == limit - 1, f"a prompt of {limit - 1} tokens is counted as {usage['prompt_tokens']}"
    assert usage["completion_tokens"] == 1, f"got {usage['completion_tokens']} tokens, but there was room for one"


def test_a_prompt_over_the_limit_is_refused(client: ApiClient, server: ServerFacts, limit: int, token: int) -> None:
    """The prompt is refused with a reason, not silently truncated."""
    answer = client.post("/v1/completions", {"model": server.model, "prompt": [token] * (limit + 1), "max_tokens": 1})
    assert answer.status_code == 400, f"a prompt of {limit + 1} tokens: {shown(answer)}"
    assert str(limit) in answer.text, f"the refusal does not name the limit of {limit}: {shown(answer)}"
    client.works()


@pytest.mark.requires_capability("chat")
def test_a_conversation_over_the_limit_is_refused(client: ApiClient, server: ServerFacts, limit: int) -> None:
    """The same for a prompt that the chat template renders."""
    body = {"model": server.model, "messages": [{"role": "user", "content": "hello " * limit}], "max_tokens": 1}
    answer = client.post("/v1/chat/completions", body)
    assert answer.status_code == 400, shown(answer)
    client.works()


def test_more_tokens_than_the_limit_are_refused(client: ApiClient, server: ServerFacts, limit: int) -> None:
    """A max_tokens above the limit is an error."""
    answer = client.post("/v1/completions", {"model": server.model, "prompt": "hello", "max_tokens": limit + 1})
    assert answer.status_code == 400, shown(answer)


@pytest.mark.deep
def test_prompt_and_answer_together_stay_within_the_limit(client: ApiClient, limit: int, token: int) -> None:
    """An answer that reaches the limit is truncated, with the finish reason `length`."""
    answer = client.complete([token] * (limit - 8), max_tokens=limit, ignore_eos=True)
    usage = answer["usage"]
    assert usage["total_tokens"] <= limit, f"{usage['total_tokens']} tokens in a sequence of at most {limit}"
    assert answer["choices"][0]["finish_reason"] == "length", f"finish_reason is {answer['choices'][0]['finish_reason']!r}"


@pytest.mark.deep
def test_a_long_prompt_arrives_whole(client: ApiClient, limit: int) -> None:
    """With echo, a prompt of half the limit comes back complete."""
    sixteen = client.complete("hello " * 16, max_tokens=1)["usage"]["prompt_tokens"]
    middle = "hello " * (limit // 2 * 16 // sixteen)
    text = client.complete(f"alpha {middle}omega", max_tokens=1, echo=True)["choices"][0]["text"]
    assert text.startswith(f"alpha {middle}omega"), f"the prompt came back as {text[:30]!r} ... {text[-30:]!r}"
