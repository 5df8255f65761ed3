"""Long prompts: up to the limit they are served, one token over they are refused."""

from __future__ import annotations

import pytest

from vllm_ci.suites.client import Client, shown
from vllm_ci.suites.server import Server

pytestmark = [pytest.mark.requires_capability("completions", "tokenize"), pytest.mark.fills_context]

# A prompt of this many tokens is refused or served within a test's patience; longer limits are tried by the performance stage.
_PATIENCE_TOKENS = 65_536


@pytest.fixture(scope="module")
def limit(server: Server) -> int:
    """Longest sequence in tokens."""
    if not server.max_model_len:
        pytest.skip("the server does not say how long a sequence may be")
    if server.max_model_len > _PATIENCE_TOKENS:
        pytest.skip(f"a prompt of {server.max_model_len} tokens takes too long here")
    return server.max_model_len


@pytest.fixture(scope="module")
def token(client: Client) -> int:
    """Some plain token."""
    return client.tokens("hello")[-1]


@pytest.mark.deep
def test_a_prompt_at_the_limit_is_served(client: Client, limit: int, token: int) -> None:
    """One token short of the limit leaves room for an answer of one token."""
    usage = client.complete([token] * (limit - 1), max_tokens=1)["usage"]
    assert usage["prompt_tokens"] == limit - 1, f"the prompt of {limit - 1} tokens counts {usage['prompt_tokens']}"
    assert usage["completion_tokens"] == 1, f"{usage['completion_tokens']} tokens came, there was room for one"


def test_a_prompt_over_the_limit_is_refused(client: Client, server: Server, limit: int, token: int) -> None:
    """Refused with a reason, not cut silently: an answer to half a question is worse than none."""
    answer = client.post("/v1/completions", {"model": server.model, "prompt": [token] * (limit + 1), "max_tokens": 1})
    assert answer.status_code == 400, f"a prompt of {limit + 1} tokens: {shown(answer)}"
    assert str(limit) in answer.text, f"the refusal does not name the limit of {limit}: {shown(answer)}"
    client.works()


@pytest.mark.requires_capability("chat")
def test_a_conversation_over_the_limit_is_refused(client: Client, server: Server, limit: int) -> None:
    """Likewise where the chat template makes the prompt."""
    body = {"model": server.model, "messages": [{"role": "user", "content": "hello " * limit}], "max_tokens": 1}
    answer = client.post("/v1/chat/completions", body)
    assert answer.status_code == 400, shown(answer)
    client.works()


def test_more_tokens_than_the_limit_are_refused(client: Client, server: Server, limit: int) -> None:
    """A client that asks for more than can ever be is told so."""
    answer = client.post("/v1/completions", {"model": server.model, "prompt": "hello", "max_tokens": limit + 1})
    assert answer.status_code == 400, shown(answer)


@pytest.mark.deep
def test_prompt_and_answer_together_stay_within_the_limit(client: Client, limit: int, token: int) -> None:
    """An answer that would go over is cut there, and says `length`."""
    answer = client.complete([token] * (limit - 8), max_tokens=limit, ignore_eos=True)
    usage = answer["usage"]
    assert usage["total_tokens"] <= limit, f"{usage['total_tokens']} tokens in a sequence of at most {limit}"
    assert answer["choices"][0]["finish_reason"] == "length", f"finish_reason is {answer['choices'][0]['finish_reason']!r}"


@pytest.mark.deep
def test_a_long_prompt_arrives_whole(client: Client, limit: int) -> None:
    """Both ends of a prompt of half the limit come back with echo."""
    sixteen = client.complete("hello " * 16, max_tokens=1)["usage"]["prompt_tokens"]
    middle = "hello " * (limit // 2 * 16 // sixteen)
    text = client.complete(f"alpha {middle}omega", max_tokens=1, echo=True)["choices"][0]["text"]
    assert text.startswith(f"alpha {middle}omega"), f"the prompt came back as {text[:30]!r} ... {text[-30:]!r}"
