"""Token counts are correct; billing, quotas and capacity planning depend on them."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from vllm_ci.suites.answers import chunks
from vllm_ci.suites.client import ApiClient, Json, at_once, shown, system, user
from vllm_ci.suites.integration.asking import required_of_vllm
from vllm_ci.suites.metrics import Samples
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.verdicts import Fault, inconclusive

_TEXT = pytest.mark.requires_capability("text")
_USAGE = pytest.mark.requires_capability("text", "usage")
_REQUESTS = "vllm:request_success_total"
_PROMPT = "vllm:prompt_tokens_total"
_GENERATED = "vllm:generation_tokens_total"
_LATE_S = 5.0
"""Counters may be updated after the answer was sent, in another process."""


@_TEXT
def test_answers_say_what_they_used(client: ApiClient, server: ServerFacts) -> None:
    """A vLLM counts in every answer; the API reference leaves it optional, so other cases count only where there is usage."""
    wrong = ""
    for path in ("chat", "completions"):
        if server.can(path):
            answer = client.talk("hello", max_tokens=2) if path == "chat" else client.finish("hello", max_tokens=2)
            counts = (answer.prompt_tokens, answer.completion_tokens)
            wrong = wrong or (f"an answer of {path} has no usage" if None in counts else "")
            assert counts[0] is None or counts[0] > 0, f"an answer of {path} has a prompt of {counts[0]} tokens"
    required_of_vllm(server, holds=not wrong, message=wrong)


@_USAGE
def test_total_is_prompt_and_completion_together(client: ApiClient) -> None:
    """total_tokens is the sum of prompt and completion tokens."""
    answer = client.ask("hello world", max_tokens=5)
    total, parts = answer.count("total_tokens"), answer.count("prompt_tokens") + answer.count("completion_tokens")
    assert total == parts, f"the total is {total}, but the parts add up to {parts}"


@pytest.mark.requires_capability("chat", "completions", "usage")
def test_the_total_of_a_chat_adds_up(client: ApiClient) -> None:
    """The same for chat."""
    answer = client.talk("hello world", max_tokens=5)
    total, parts = answer.count("total_tokens"), answer.count("prompt_tokens") + answer.count("completion_tokens")
    assert total == parts, f"the total is {total}, but the parts add up to {parts}"


@_USAGE
def test_details_count_no_more_than_the_whole(client: ApiClient) -> None:
    """Cached tokens are part of the prompt, reasoning tokens of the answer (API reference), also for a repeated prompt."""
    counted: set[int] = set()
    for _ in range(3):
        answer = client.ask("hello " * 60, max_tokens=5)
        counted.add(answer.count("prompt_tokens"))
        for whole in ("prompt_tokens", "completion_tokens"):
            details = answer.read("usage", of=dict).get(f"{whole}_details") or {}
            counts = {name: count for name, count in details.items() if isinstance(count, int)}
            wrong = {name: count for name, count in counts.items() if not 0 <= count <= answer.count(whole)}
            assert not wrong, f"{whole} is {answer.count(whole)}, but {whole}_details says {wrong}"
    assert len(counted) == 1, f"the same prompt is counted as {sorted(counted)} tokens; those in a cache count, too"


@pytest.mark.compares_answers
@pytest.mark.requires_capability("tokenize", "completions", "usage")
def test_prompt_tokens_are_those_of_the_tokenizer(client: ApiClient) -> None:
    """Tokens are counted with the server's tokenizer, not as words, characters or bytes."""
    text = "  Xylophones, 12345 of them; naïve 日本語 and a supercalifragilistic word \n"
    counted, expected = client.finish(text, max_tokens=1).count("prompt_tokens"), len(client.tokens(text))
    assert counted == expected, f"{counted} prompt tokens, but the tokenizer gives {expected}"


@pytest.mark.compares_answers
@_USAGE
def test_a_longer_prompt_has_more_tokens(client: ApiClient) -> None:
    """Also where the server shows no tokenizer: twice as many words are about twice as many tokens."""
    counts = at_once(lambda words: client.ask("hello " * words, max_tokens=1).count("prompt_tokens"), (20, 40, 80))
    first, second = counts[1] - counts[0], counts[2] - counts[1]
    right = first >= 20 and 1.5 * first <= second <= 2.5 * first
    assert right, f"prompts of 20, 40 and 80 words are counted as {counts} tokens"


@pytest.mark.compares_answers
@pytest.mark.requires_capability("chat", "tokenize", "usage", "system_messages")
def test_chat_prompt_tokens_are_those_of_the_rendered_conversation(client: ApiClient) -> None:
    """The count includes everything that the chat template adds."""
    messages = [system("Be kind."), user("hello")]
    counted, rendered = client.talk(messages, max_tokens=1).count("prompt_tokens"), len(client.tokens(messages))
    assert counted == rendered, f"{counted} prompt tokens, but {rendered} are rendered"


@pytest.mark.requires_capability("text", "token_ids", "usage")
def test_completion_tokens_are_those_that_came(client: ApiClient, server: ServerFacts) -> None:
    """The count matches the returned token ids."""
    answer = client.ask("hello", **client.exactly(9), **client.with_ids)
    counted, came = answer.count("completion_tokens"), len(answer.token_ids)
    required_of_vllm(server, holds=came > 0, message="return_token_ids returns no ids")
    assert counted == came, f"usage has {counted}, but got {came} ids"


@pytest.mark.compares_answers
@pytest.mark.requires_capability("text", "choices", "usage")
def test_several_choices_are_all_counted(client: ApiClient, server: ServerFacts) -> None:
    """The tokens of all choices are counted, those of the prompt once."""
    one, three = at_once(lambda fields: client.ask("hello", **client.exactly(4), **fields), ({}, {"n": 3, "temperature": 1}))
    made, prompt, expected = three.count("completion_tokens"), three.count("prompt_tokens"), one.count("prompt_tokens")
    right = made == 12 if server.can("ignore_eos") else made <= 12
    assert right, f"{made} tokens for 3 choices of {4 if server.can('ignore_eos') else 'at most 4'}"
    assert prompt == expected, f"the prompt has {prompt} tokens with n=3, and {expected} with n=1"


@pytest.mark.requires_capability("text", "metrics", "usage")
def test_the_servers_metrics_agree_with_the_clients_count(client: ApiClient) -> None:
    """Dashboards and autoscalers use the metrics, billing uses usage; both must agree."""
    before = _quiet(client)
    answers = at_once(lambda n: client.ask(f"hello number {n}", max_tokens=4), range(5))
    expected = {
        _REQUESTS: len(answers),
        _PROMPT: sum(answer.count("prompt_tokens") for answer in answers),
        _GENERATED: sum(answer.count("completion_tokens") for answer in answers),
    }
    counted = _grown(client, before, expected)
    assert counted == expected, f"the metrics grew by {counted}, but the client counted {expected}"


@pytest.mark.requires_capability("text", "metrics", "stream_usage")
def test_the_servers_metrics_count_streams(client: ApiClient) -> None:
    """Streams are counted like answers in one piece."""
    before = _quiet(client)
    usage = [_streamed(client, f"hello number {number}") for number in range(3)]
    expected = {
        _REQUESTS: len(usage),
        _PROMPT: sum(each["prompt_tokens"] for each in usage),
        _GENERATED: sum(each["completion_tokens"] for each in usage),
    }
    counted = _grown(client, before, expected)
    assert counted == expected, f"the metrics grew by {counted}, but {len(usage)} streams say {expected}"


def _streamed(client: ApiClient, prompt: str) -> Json:
    """The usage of a stream."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    answer = client.sent(client.path, client.body(prompt, max_tokens=4, **options))
    found = [chunk["usage"] for chunk in chunks(answer.content) if isinstance(chunk.get("usage"), dict)]
    if answer.status_code != 200 or not found:
        raise Fault(f"a stream has no usage: {shown(answer)}")
    return dict(found[-1])


@pytest.mark.requires_capability("text", "metrics")
def test_nothing_runs_when_nobody_asks(client: ApiClient) -> None:
    """A gauge above 0 after the last answer means that a slot was not released."""
    client.works()
    _quiet(client)
    until = time.monotonic() + _LATE_S
    while (busy := _busy(client.metrics())) and time.monotonic() < until:
        time.sleep(0.2)  # gauges are set by the scheduler's next step
    assert busy == 0, f"{busy:.0f} requests are running or waiting although none was sent"


def _grown(client: ApiClient, before: Samples, expected: Mapping[str, int]) -> dict[str, int]:
    """How much counters grew, as soon as that is the expected growth, or after some seconds."""
    until = time.monotonic() + _LATE_S
    while True:
        after = client.metrics()
        counted = {name: round(after.total(name) - before.total(name)) for name in expected}
        if counted == expected or time.monotonic() > until:
            return counted
        time.sleep(0.1)


def _busy(samples: Samples) -> float:
    return samples.total("vllm:num_requests_running") + samples.total("vllm:num_requests_waiting")


def _quiet(client: ApiClient) -> Samples:
    """A scrape of the metrics; inconclusive if another client uses the server."""
    first = client.metrics()
    time.sleep(0.1)
    second = client.metrics()
    if first.total(_REQUESTS) != second.total(_REQUESTS):
        inconclusive("another client uses the server at the same time")
    return second
