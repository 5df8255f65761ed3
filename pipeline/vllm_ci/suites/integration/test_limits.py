"""Long prompts are served up to the limit, and refused above it.

A prompt that leaves less room than ``max_tokens`` may be refused, as OpenAI does, or get a shorter answer.
"""

from __future__ import annotations

import pytest

from vllm_ci.suites.client import ApiClient, shown
from vllm_ci.suites.integration.asking import ENDS, required_of_vllm, taken
from vllm_ci.suites.integration.refusals import REFUSALS
from vllm_ci.suites.server import ServerFacts

pytestmark = [pytest.mark.requires_capability("text"), pytest.mark.fills_context]

# Longer prompts would take too long in these cases; the performance stage tests them.
_PATIENCE_TOKENS = 65_536
_WHOLE = 0.9


@pytest.fixture(scope="module")
def limit(server: ServerFacts) -> int:
    """Longest sequence in tokens."""
    if not server.max_model_len:
        pytest.skip("the server does not report the maximum length of a sequence")
    if server.max_model_len > _PATIENCE_TOKENS:
        pytest.skip(f"a prompt of {server.max_model_len} tokens takes too long for this case")
    return server.max_model_len


@pytest.fixture(scope="module")
def token(client: ApiClient, server: ServerFacts) -> int:
    """Some plain token."""
    for name in ("completions", "tokenize", "token_prompts"):
        if not server.can(name):
            pytest.skip(f"prompts of an exact length need {name}: {server.absent[name]}")
    return client.tokens("hello")[-1]


@pytest.mark.compares_answers
@pytest.mark.requires_capability("usage")
@pytest.mark.deep
def test_a_prompt_at_the_limit_is_served(client: ApiClient, limit: int, token: int) -> None:
    """A prompt that is one token shorter than the limit leaves room for an answer of one token."""
    answer = client.finish([token] * (limit - 1), **client.exactly(1))
    counted, made = answer.count("prompt_tokens"), answer.count("completion_tokens")
    assert counted == limit - 1, f"a prompt of {limit - 1} tokens is counted as {counted}"
    assert client.counts(made, 1), f"got {made} tokens, but there was room for one"


@pytest.mark.requires_capability("completions", "tokenize", "token_prompts")
def test_a_prompt_over_the_limit_is_refused(client: ApiClient, server: ServerFacts, limit: int, token: int) -> None:
    """The prompt is refused with a reason, not silently truncated."""
    answer = client.sent("/v1/completions", {"model": server.model, "prompt": [token] * (limit + 1), "max_tokens": 1})
    assert answer.status_code in REFUSALS, f"a prompt of {limit + 1} tokens: {shown(answer)}"
    named = str(limit) in answer.text or "context_length" in answer.text
    required_of_vllm(server, holds=named, message=f"the refusal does not name the limit of {limit}: {shown(answer)}")
    client.works()


@pytest.mark.requires_capability("completions")
def test_a_text_over_the_limit_is_refused(client: ApiClient, limit: int) -> None:
    """The same for a text, which has at least one token for each word."""
    answer = client.sent("/v1/completions", {"model": client.model, "prompt": "hello " * limit, "max_tokens": 1})
    assert answer.status_code in REFUSALS, f"a text of {limit} words in a model of at most {limit} tokens: {shown(answer)}"


@pytest.mark.requires_capability("chat")
def test_a_conversation_over_the_limit_is_refused(client: ApiClient, limit: int) -> None:
    """The same for a prompt that the chat template renders."""
    messages = [{"role": "user", "content": "hello " * limit}]
    answer = client.sent("/v1/chat/completions", {"model": client.model, "messages": messages, "max_tokens": 1})
    assert answer.status_code in REFUSALS, f"a message of {limit} words in a model of at most {limit} tokens: {shown(answer)}"
    client.works()


@pytest.mark.requires_capability("completions", "usage")
@pytest.mark.deep
def test_prompt_and_answer_together_stay_within_the_limit(client: ApiClient, limit: int, token: int) -> None:
    """An answer that reaches the limit is truncated, with the finish reason `length`; or the request is refused."""
    ends = {"ignore_eos": True} if client.server.can("ignore_eos") else {}
    body = {"model": client.model, "prompt": [token] * (limit - 8), "max_tokens": limit, **ends}
    response = client.sent("/v1/completions", body)
    if response.status_code in REFUSALS:
        return
    answer = taken(response, "/v1/completions")
    total = answer.count("total_tokens")
    assert total <= limit, f"{total} tokens in a sequence of at most {limit}"
    expected = ("length",) if ends else ENDS
    assert answer.finish_reason in expected, f"finish_reason is {answer.finish_reason!r}"


@pytest.mark.requires_capability("usage")
def test_more_tokens_than_the_limit_are_not_generated(client: ApiClient, limit: int, token: int) -> None:
    """A max_tokens above the limit is refused, or the answer is shorter."""
    ends = {"ignore_eos": True} if client.server.can("ignore_eos") else {}
    # A long prompt leaves room for a few tokens, so that an answer takes little time.
    body = {"model": client.model, "prompt": [token] * (limit - 4), "max_tokens": limit + 1, **ends}
    response = client.sent("/v1/completions", body)
    if response.status_code in REFUSALS:
        return
    made = taken(response, "/v1/completions").count("completion_tokens")
    assert made <= 4, f"{made} tokens were generated, but there was room for 4"


@pytest.mark.compares_answers
@pytest.mark.deep
def test_a_long_prompt_arrives_whole(client: ApiClient, server: ServerFacts, limit: int) -> None:
    """With echo, a prompt of half the limit comes back complete; without, its tokens are counted."""
    if not server.can("usage"):
        pytest.skip(f"the length of prompts is unknown: {server.absent['usage']}")
    sixteen = client.ask("hello " * 16, max_tokens=1).count("prompt_tokens")
    words = limit // 2 * 16 // sixteen
    prompt = f"alpha {'hello ' * words}omega"
    if not client.is_chat and server.can("echo"):
        text = client.ask(prompt, max_tokens=1, echo=True).text.lstrip()
        assert text.startswith(prompt), f"the prompt came back as {text[:30]!r} ... {text[-30:]!r}"
        return
    counted = client.ask(prompt, max_tokens=1).count("prompt_tokens")
    assert counted >= _WHOLE * words, f"a prompt of {words} words has {counted} tokens"
