"""Responses are the same with and without streaming."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from vllm_ci.loadgen.exchange import Exchange
from vllm_ci.loadgen.stream import Stream
from vllm_ci.suites.capabilities import REFUSED
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.streaming.asking import Asking, Endpoint, first_choice, unlike, usage_of
from vllm_ci.suites.streaming.causes import CHOICES, COUNTED, holds
from vllm_ci.suites.verdicts import inconclusive
from vllm_ci.suites.work import Sizes

if TYPE_CHECKING:
    import openai

pytestmark = pytest.mark.compares_answers

_PROMPT = "the quick brown fox"
_ON_COMPLETIONS = [pytest.param("completions", marks=pytest.mark.requires_capability("completions"))]


def both(
    ask: Asking, endpoint: Endpoint, metric: Callable[[str, Any], None], tokens: int, **parameters: Any
) -> tuple[Stream, Exchange]:
    """Send the same request with and without streaming; the report gets the timing of both.

    It is sent twice without streaming: if these responses differ, the comparison is inconclusive.
    """
    body = endpoint.exactly(_PROMPT, tokens, **parameters)
    first = ask.whole(endpoint, body)
    stream = ask.stream(endpoint, body)
    second = ask.whole(endpoint, body)
    metric("whole_ms", round(min(first.seconds, second.seconds) * 1000, 3))
    metric("streamed_ms", round(stream.exchange.seconds * 1000, 3))
    unlike(endpoint.said(first), endpoint.said(second))
    return stream, first


def same(stream: Stream, whole: Exchange, endpoint: Endpoint) -> None:
    """Check that text, token ids (if any), finish reason and token count are equal."""
    text, ids = endpoint.said(whole)
    if ids is not None and stream.token_ids is not None:
        differs = next((at for at, pair in enumerate(zip(stream.token_ids, ids, strict=False)) if pair[0] != pair[1]), None)
        assert differs is None, f"token {differs} is {stream.token_ids[differs]} streamed and {ids[differs]} without streaming"
        assert len(stream.token_ids) == len(ids), f"{len(stream.token_ids)} tokens streamed, {len(ids)} without streaming"
    assert shown(stream.text) == shown(text), f"streamed {stream.text[:200]!r}, without streaming {text[:200]!r}"
    reason = first_choice(whole).get("finish_reason")
    assert stream.finish_reason == reason, f"finish reason is {stream.finish_reason!r} streamed, {reason!r} without streaming"
    for name in ("completion_tokens", "prompt_tokens"):
        streamed, expected = (stream.usage or {}).get(name), usage_of(whole, name)
        message = f"{name} is {streamed} streamed, {expected} without streaming"
        holds(COUNTED, right=expected is None or streamed in (None, expected), message=message)


def shown(text: str) -> str:
    """The text without a character that is incomplete at its end: some servers send a replacement for it, some nothing."""
    return text.rstrip("\ufffd")


@pytest.mark.requires_capability("temperature")
@pytest.mark.sized(tokens=(64, 20))
def test_a_greedy_stream_is_the_greedy_answer(
    ask: Asking, endpoint: Endpoint, metric: Callable[[str, Any], None], size: Sizes
) -> None:
    """At temperature 0, all tokens and all characters are the same."""
    same(*both(ask, endpoint, metric, size.tokens, temperature=0), endpoint)


@pytest.mark.sized(tokens=(32, 12))
def test_a_seeded_stream_is_the_seeded_answer(
    ask: Asking, endpoint: Endpoint, metric: Callable[[str, Any], None], size: Sizes
) -> None:
    """A seed gives the same answer with and without streaming."""
    same(*both(ask, endpoint, metric, size.tokens, temperature=1, seed=11), endpoint)


@pytest.mark.sized(tokens=(64, 32))
def test_a_stop_string_is_never_shown(ask: Asking, endpoint: Endpoint, metric: Callable[[str, Any], None], size: Sizes) -> None:
    """A stop string that spans several chunks must not be sent."""
    text, _ = endpoint.said(ask.whole(endpoint, endpoint.exactly(_PROMPT, size.tokens, temperature=0)))
    readable = [at for at in range(8, len(text) - 4) if "\ufffd" not in text[at : at + 4] and text[at : at + 4].strip()]
    if not readable:
        pytest.skip(f"the model's answer contains no usable stop string: {text[:100]!r}")
    stop = text[readable[0] : readable[0] + 4]
    metric("stop", stop)
    stream, whole = both(ask, endpoint, metric, size.tokens, temperature=0, stop=[stop])
    if stop in endpoint.said(whole)[0]:
        inconclusive(f"the server does not stop at {stop!r} without streaming either; a case of another suite checks that")
    assert stop not in stream.text, f"the stop string {stop!r} is in the stream: {stream.text[-50:]!r}"
    assert stream.finish_reason == "stop", f"stopped by a string, but the finish reason is {stream.finish_reason!r}"
    same(stream, whole, endpoint)


@pytest.mark.sized(tokens=(32, 20))
def test_the_official_client_reads_the_same(
    ask: Asking, openai_client: openai.OpenAI, endpoint: Endpoint, server: ServerFacts, size: Sizes
) -> None:
    """The official openai SDK parses the stream and gets the same answer."""
    body = endpoint.body(_PROMPT, temperature=0, max_tokens=size.tokens)
    before = ask.stream(endpoint, body)
    text, reasons, counted = _through_the_sdk(openai_client, endpoint, size.tokens, usage=server.can("stream_usage"))
    unlike(before.text, ask.stream(endpoint, body).text)
    assert text == before.text, f"the SDK returns {text[:200]!r}, the stream contains {before.text[:200]!r}"
    assert reasons == [before.finish_reason], (
        f"finish reasons are {reasons} in the SDK and {before.finish_reason} in the stream"
    )
    wired = before.metrics.output_tokens
    assert counted == wired, f"usage counts {counted} tokens in the SDK and {wired} in the stream"


def _through_the_sdk(
    client: openai.OpenAI, endpoint: Endpoint, tokens: int, *, usage: bool
) -> tuple[str, list[str], int | None]:
    """Text, finish reasons and token count as returned by the SDK."""
    asked: dict[str, Any] = {"model": endpoint.model, "stream": True, "temperature": 0, "max_tokens": tokens}
    if usage:
        asked["stream_options"] = {"include_usage": True}
    if endpoint.is_chat:
        pieces = list(client.chat.completions.create(messages=[{"role": "user", "content": _PROMPT}], **asked))
    else:
        pieces = list(client.completions.create(prompt=_PROMPT, **asked))
    choices = [choice for piece in pieces for choice in piece.choices or []]
    text = "".join(
        (choice.delta.content if endpoint.is_chat and choice.delta else getattr(choice, "text", "")) or "" for choice in choices
    )
    counted = next((piece.usage.completion_tokens for piece in reversed(pieces) if piece.usage), None)
    reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
    return text, reasons, counted


@pytest.mark.requires_capability("usage", "stream_usage", "system_messages")
@pytest.mark.parametrize("endpoint", [pytest.param("chat", marks=pytest.mark.requires_capability("chat"))], indirect=True)
def test_a_system_message_reaches_a_stream(ask: Asking, endpoint: Endpoint) -> None:
    """The system message must be used with streaming too; otherwise the operator's rules are lost."""
    # Many templates add a default system message, so a long one is compared with a short one.
    rules = ("You speak in short sentences about weather.", "Speak.")
    ruled_body, short_body = (
        endpoint.body([{"role": "system", "content": rule}, {"role": "user", "content": "hello"}], max_tokens=4)
        for rule in rules
    )
    with_rules = ask.stream(endpoint, ruled_body).metrics.prompt_tokens or 0
    with_few = ask.stream(endpoint, short_body).metrics.prompt_tokens or 0
    assert with_rules > with_few, (
        f"the prompt has {with_rules} tokens with a long system message and {with_few} with a short one"
    )
    expected = usage_of(ask.whole(endpoint, ruled_body), "prompt_tokens")
    holds(COUNTED, right=with_rules == expected, message=f"{with_rules} prompt tokens streamed, {expected} without streaming")


@pytest.mark.requires_capability("echo", "temperature")
@pytest.mark.parametrize("endpoint", _ON_COMPLETIONS, indirect=True)
def test_an_echo_is_streamed_too(ask: Asking, endpoint: Endpoint, server: ServerFacts) -> None:
    """With echo, the prompt comes before the answer in a stream as well; some servers leave it out there."""
    body = {"model": endpoint.model, "prompt": _PROMPT, "temperature": 0, "max_tokens": 6, "echo": True}
    before, stream, after = ask.whole(endpoint, body), ask.stream(endpoint, body), ask.whole(endpoint, body)
    expected = endpoint.said(before)[0]
    unlike(expected, endpoint.said(after)[0])
    if not server.is_vllm and shown(stream.text) == shown(expected.lstrip().removeprefix(_PROMPT)):
        pytest.skip("the server does not repeat the prompt in streams")
    assert shown(stream.text) == shown(expected), f"streamed {stream.text[:200]!r}, without streaming {expected[:200]!r}"


@pytest.mark.requires_capability("batch")
@pytest.mark.parametrize("endpoint", _ON_COMPLETIONS, indirect=True)
def test_each_prompt_of_a_list_has_a_stream_of_its_own(ask: Asking, endpoint: Endpoint, server: ServerFacts) -> None:
    """With several prompts, chunks reach the choice that they belong to: each has the text that it has without streaming."""
    body = {**endpoint.exactly(_PROMPT, 8, temperature=1, seed=11), "prompt": [_PROMPT, "tell me a secret"]}
    stream = ask.attempt(endpoint, body)
    if stream.exchange.status in REFUSED and not server.is_vllm:
        pytest.skip("the server streams one prompt only")
    ask.need([stream])
    before, after = ask.whole(endpoint, body), ask.whole(endpoint, body)
    expected = _texts(endpoint, before)
    unlike(expected, _texts(endpoint, after))
    streamed = [answer.text for answer in stream.answers]
    message = f"the prompts get {streamed} streamed, {expected} without streaming"
    holds(CHOICES, right=[*map(shown, streamed)] == [*map(shown, expected)], message=message)


@pytest.mark.requires_capability("choices")
def test_each_choice_of_a_stream_is_that_of_the_answer(ask: Asking, endpoint: Endpoint) -> None:
    """With n, chunks reach the choice that they belong to: each choice has the text that it has without streaming."""
    body = endpoint.exactly(_PROMPT, 12, temperature=1, seed=11, n=2)
    before, stream, after = ask.whole(endpoint, body), ask.stream(endpoint, body), ask.whole(endpoint, body)
    expected = _texts(endpoint, before)
    unlike(expected, _texts(endpoint, after))
    streamed = [answer.text for answer in stream.answers]
    holds(
        CHOICES,
        right=[*map(shown, streamed)] == [*map(shown, expected)],
        message=f"the choices are {streamed} streamed, {expected} without streaming",
    )


def _texts(endpoint: Endpoint, whole: Exchange) -> list[str]:
    """Text of each choice."""
    first_choice(whole)
    body: Any = whole.json()
    ordered = sorted(body["choices"], key=lambda choice: int(choice.get("index") or 0))
    return [str((choice["message"].get("content") if endpoint.is_chat else choice.get("text")) or "") for choice in ordered]
