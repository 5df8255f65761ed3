"""What is counted is what happened: bills, quotas and capacity plans are made from it."""

from __future__ import annotations

import pytest

from vllm_ci.suites.client import Client, system, user
from vllm_ci.suites.metrics import Samples
from vllm_ci.suites.verdicts import inconclusive

pytestmark = pytest.mark.requires_capability("completions")

_REQUESTS = "vllm:request_success_total"
_PROMPT = "vllm:prompt_tokens_total"
_GENERATED = "vllm:generation_tokens_total"


def test_total_is_prompt_and_completion_together(client: Client) -> None:
    """Plain arithmetic, which clients check too."""
    usage = client.complete("hello world", max_tokens=5, ignore_eos=True)["usage"]
    parts = usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["total_tokens"] == parts, f"{usage['total_tokens']} in total, but the parts make {parts}"


@pytest.mark.requires_capability("chat")
def test_the_total_of_a_chat_adds_up(client: Client) -> None:
    """Likewise for chat."""
    usage = client.chat("hello world", max_tokens=5, ignore_eos=True)["usage"]
    parts = usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["total_tokens"] == parts, f"{usage['total_tokens']} in total, but the parts make {parts}"


@pytest.mark.requires_capability("tokenize")
def test_prompt_tokens_are_those_of_the_tokenizer(client: Client) -> None:
    """The server's own tokenizer is the measure; words, characters and bytes are all something else."""
    text = "Xylophones, 12345 of them; naïve 日本語 and a supercalifragilistic word"
    counted = client.complete(text, max_tokens=1)["usage"]["prompt_tokens"]
    assert counted == len(client.tokens(text)), f"{counted} prompt tokens, the tokenizer says {len(client.tokens(text))}"


@pytest.mark.requires_capability("chat", "tokenize")
def test_chat_prompt_tokens_are_those_of_the_rendered_conversation(client: Client) -> None:
    """Including everything that the chat template adds."""
    messages = [system("Be kind."), user("hello")]
    counted = client.chat(messages, max_tokens=1)["usage"]["prompt_tokens"]
    assert counted == len(client.tokens(messages)), f"{counted} prompt tokens, rendered {len(client.tokens(messages))}"


@pytest.mark.requires_capability("token_ids")
def test_completion_tokens_are_those_that_came(client: Client) -> None:
    """Counted, not estimated."""
    answer = client.complete("hello", max_tokens=9, ignore_eos=True, return_token_ids=True)
    came = len(answer["choices"][0]["token_ids"])
    assert answer["usage"]["completion_tokens"] == came, f"{answer['usage']['completion_tokens']} counted, {came} came"


def test_several_choices_are_all_counted(client: Client) -> None:
    """Every choice costs, the prompt only once."""
    one = client.complete("hello", max_tokens=4, ignore_eos=True)["usage"]
    three = client.complete("hello", max_tokens=4, ignore_eos=True, n=3, temperature=1)["usage"]
    assert three["completion_tokens"] == 12, f"{three['completion_tokens']} tokens for 3 choices of 4"
    assert three["prompt_tokens"] == one["prompt_tokens"], f"the prompt counts {three['prompt_tokens']} with n=3"


@pytest.mark.requires_capability("metrics")
def test_the_servers_metrics_agree_with_the_clients_count(client: Client) -> None:
    """Dashboards and autoscalers look at the metrics, bills at usage: they have to tell the same story."""
    before = _quiet(client)
    usages = [client.complete(f"hello number {n}", max_tokens=4, ignore_eos=True)["usage"] for n in range(5)]
    after = client.metrics()
    expected = {
        _REQUESTS: len(usages),
        _PROMPT: sum(usage["prompt_tokens"] for usage in usages),
        _GENERATED: sum(usage["completion_tokens"] for usage in usages),
    }
    counted = {name: round(after.total(name) - before.total(name)) for name in expected}
    assert counted == expected, f"the metrics grew by {counted}, the client counted {expected}"


@pytest.mark.requires_capability("metrics")
def test_nothing_runs_when_nobody_asks(client: Client) -> None:
    """A gauge that stays up after the last answer hides a slot that was never given back."""
    client.works()
    samples = _quiet(client)
    busy = samples.total("vllm:num_requests_running") + samples.total("vllm:num_requests_waiting")
    assert busy == 0, f"{busy:.0f} requests run or wait although nobody asks"


def _quiet(client: Client) -> Samples:
    """A scrape of a server that nobody else uses at the moment."""
    first, second = client.metrics(), client.metrics()
    if first.total(_REQUESTS) != second.total(_REQUESTS):
        inconclusive("somebody else uses the server at the same time")
    return second
