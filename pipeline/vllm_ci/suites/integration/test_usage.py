"""Token counts are correct; billing, quotas and capacity planning depend on them."""

from __future__ import annotations

import pytest

from vllm_ci.suites.client import ApiClient, system, user
from vllm_ci.suites.metrics import Samples
from vllm_ci.suites.verdicts import inconclusive

pytestmark = pytest.mark.requires_capability("completions")

_REQUESTS = "vllm:request_success_total"
_PROMPT = "vllm:prompt_tokens_total"
_GENERATED = "vllm:generation_tokens_total"


def test_total_is_prompt_and_completion_together(client: ApiClient) -> None:
    """total_tokens is the sum of prompt and completion tokens."""
    usage = client.complete("hello world", max_tokens=5, ignore_eos=True)["usage"]
    parts = usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["total_tokens"] == parts, f"the total is {usage['total_tokens']}, but the parts add up to {parts}"


@pytest.mark.requires_capability("chat")
def test_the_total_of_a_chat_adds_up(client: ApiClient) -> None:
    """The same for chat."""
    usage = client.chat("hello world", max_tokens=5, ignore_eos=True)["usage"]
    parts = usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["total_tokens"] == parts, f"the total is {usage['total_tokens']}, but the parts add up to {parts}"


@pytest.mark.requires_capability("tokenize")
def test_prompt_tokens_are_those_of_the_tokenizer(client: ApiClient) -> None:
    """Tokens are counted with the server's tokenizer, not as words, characters or bytes."""
    text = "Xylophones, 12345 of them; naïve 日本語 and a supercalifragilistic word"
    counted = client.complete(text, max_tokens=1)["usage"]["prompt_tokens"]
    assert counted == len(client.tokens(text)), f"{counted} prompt tokens, but the tokenizer gives {len(client.tokens(text))}"


@pytest.mark.requires_capability("chat", "tokenize")
def test_chat_prompt_tokens_are_those_of_the_rendered_conversation(client: ApiClient) -> None:
    """The count includes everything that the chat template adds."""
    messages = [system("Be kind."), user("hello")]
    counted = client.chat(messages, max_tokens=1)["usage"]["prompt_tokens"]
    assert counted == len(client.tokens(messages)), f"{counted} prompt tokens, but {len(client.tokens(messages))} are rendered"


@pytest.mark.requires_capability("token_ids")
def test_completion_tokens_are_those_that_came(client: ApiClient) -> None:
    """The count matches the returned token ids."""
    answer = client.complete("hello", max_tokens=9, ignore_eos=True, return_token_ids=True)
    came = len(answer["choices"][0]["token_ids"])
    assert answer["usage"]["completion_tokens"] == came, f"usage has {answer['usage']['completion_tokens']}, but got {came} ids"


def test_several_choices_are_all_counted(client: ApiClient) -> None:
    """The tokens of all choices are counted, those of the prompt once."""
    one = client.complete("hello", max_tokens=4, ignore_eos=True)["usage"]
    three = client.complete("hello", max_tokens=4, ignore_eos=True, n=3, temperature=1)["usage"]
    assert three["completion_tokens"] == 12, f"{three['completion_tokens']} tokens for 3 choices of 4"
    assert three["prompt_tokens"] == one["prompt_tokens"], f"the prompt has {three['prompt_tokens']} tokens with n=3"


@pytest.mark.requires_capability("metrics")
def test_the_servers_metrics_agree_with_the_clients_count(client: ApiClient) -> None:
    """Dashboards and autoscalers use the metrics, billing uses usage; both must agree."""
    before = _quiet(client)
    usages = [client.complete(f"hello number {n}", max_tokens=4, ignore_eos=True)["usage"] for n in range(5)]
    after = client.metrics()
    expected = {
        _REQUESTS: len(usages),
        _PROMPT: sum(usage["prompt_tokens"] for usage in usages),
        _GENERATED: sum(usage["completion_tokens"] for usage in usages),
    }
    counted = {name: round(after.total(name) - before.total(name)) for name in expected}
    assert counted == expected, f"the metrics grew by {counted}, but the client counted {expected}"


@pytest.mark.requires_capability("metrics")
def test_nothing_runs_when_nobody_asks(client: ApiClient) -> None:
    """A gauge above 0 after the last answer means that a slot was not released."""
    client.works()
    samples = _quiet(client)
    busy = samples.total("vllm:num_requests_running") + samples.total("vllm:num_requests_waiting")
    assert busy == 0, f"{busy:.0f} requests are running or waiting although none was sent"


def _quiet(client: ApiClient) -> Samples:
    """A scrape of the metrics; inconclusive if another client uses the server."""
    first, second = client.metrics(), client.metrics()
    if first.total(_REQUESTS) != second.total(_REQUESTS):
        inconclusive("another client uses the server at the same time")
    return second
