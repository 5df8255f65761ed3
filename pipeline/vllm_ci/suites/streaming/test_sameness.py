"""A stream says the same as an answer in one piece: whoever switches streaming on gets no other product."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from vllm_ci.loadgen.exchange import Exchange
from vllm_ci.loadgen.stream import Stream
from vllm_ci.suites.streaming.asking import Asking, Endpoint
from vllm_ci.suites.verdicts import inconclusive
from vllm_ci.suites.work import Sizes

if TYPE_CHECKING:
    import openai

_PROMPT = "the quick brown fox"
_GREEDY = {"temperature": 0, "ignore_eos": True}


def both(ask: Asking, endpoint: Endpoint, metric: Callable[[str, Any], None], **parameters: Any) -> tuple[Stream, Exchange]:
    """The same request streamed and in one piece, with the timing of both in the report.

    In one piece it is asked twice: where the server does not repeat itself, a comparison decides nothing.
    """
    body = endpoint.body(_PROMPT, **parameters)
    first = ask.whole(endpoint, body)
    stream = ask.stream(endpoint, body)
    second = ask.whole(endpoint, body)
    metric("whole_ms", round(min(first.seconds, second.seconds) * 1000, 3))
    metric("streamed_ms", round(stream.exchange.seconds * 1000, 3))
    if endpoint.said(first) != endpoint.said(second):
        inconclusive("the server gives two different answers in one piece to the same request, so there is nothing to compare")
    return stream, first


def same(stream: Stream, whole: Exchange, endpoint: Endpoint) -> None:
    """Text, token ids (where there are some), end and count agree."""
    text, ids = endpoint.said(whole)
    if ids is not None and stream.token_ids is not None:
        differs = next((at for at, pair in enumerate(zip(stream.token_ids, ids, strict=False)) if pair[0] != pair[1]), None)
        assert differs is None, f"token {differs} is {stream.token_ids[differs]} streamed and {ids[differs]} in one piece"
        assert len(stream.token_ids) == len(ids), f"{len(stream.token_ids)} tokens streamed, {len(ids)} in one piece"
    assert stream.text == text, f"streamed {stream.text[:200]!r}, in one piece {text[:200]!r}"
    answer = whole.json()
    assert isinstance(answer, dict)
    reason = answer["choices"][0]["finish_reason"]
    assert stream.finish_reason == reason, f"finish reason is {stream.finish_reason!r} streamed and {reason!r} in one piece"
    counts = [(usage or {}).get("completion_tokens") for usage in (stream.usage, answer["usage"])]
    assert counts[0] == counts[1], f"usage counts {counts[0]} tokens streamed, {counts[1]} in one piece"


@pytest.mark.sized(tokens=(64, 20))
def test_a_greedy_stream_is_the_greedy_answer(
    ask: Asking, endpoint: Endpoint, metric: Callable[[str, Any], None], size: Sizes
) -> None:
    """Token by token and letter by letter, at temperature 0."""
    same(*both(ask, endpoint, metric, **_GREEDY, max_tokens=size.tokens), endpoint)


@pytest.mark.sized(tokens=(32, 12))
def test_a_seeded_stream_is_the_seeded_answer(
    ask: Asking, endpoint: Endpoint, metric: Callable[[str, Any], None], size: Sizes
) -> None:
    """Sampling parameters reach the model on both ways: a seed repeats itself, streamed or not."""
    same(*both(ask, endpoint, metric, temperature=1, seed=11, max_tokens=size.tokens, ignore_eos=True), endpoint)


@pytest.mark.sized(tokens=(64, 32))
def test_a_stop_string_is_never_shown(ask: Asking, endpoint: Endpoint, metric: Callable[[str, Any], None], size: Sizes) -> None:
    """A stop string that spans chunks has to be held back: what was sent cannot be taken back."""
    greedy = {**_GREEDY, "max_tokens": size.tokens}
    text, _ = endpoint.said(ask.whole(endpoint, endpoint.body(_PROMPT, **greedy)))
    readable = [at for at in range(8, len(text) - 4) if "\ufffd" not in text[at : at + 4] and text[at : at + 4].strip()]
    if not readable:
        inconclusive(f"nothing in the model's answer can serve as a stop string: {text[:100]!r}")
    stop = text[readable[0] : readable[0] + 4]
    metric("stop", stop)
    stream, whole = both(ask, endpoint, metric, **greedy, stop=[stop])
    assert stop not in stream.text, f"the stop string {stop!r} is in the stream: {stream.text[-50:]!r}"
    assert stream.finish_reason == "stop", f"stopped by a string, but the finish reason is {stream.finish_reason!r}"
    same(stream, whole, endpoint)


@pytest.mark.sized(tokens=(32, 20))
def test_the_official_client_reads_the_same(ask: Asking, openai_client: openai.OpenAI, endpoint: Endpoint, size: Sizes) -> None:
    """What most users run: the openai SDK takes the stream apart without complaint and puts the same answer together."""
    body = endpoint.body(_PROMPT, temperature=0, max_tokens=size.tokens)
    before = ask.stream(endpoint, body)
    text, reasons, counted = _through_the_sdk(openai_client, endpoint, size.tokens)
    if before.text != ask.stream(endpoint, body).text:
        inconclusive("the server gives two different streams for the same request, so there is nothing to compare")
    assert text == before.text, f"through the SDK {text[:200]!r}, off the wire {before.text[:200]!r}"
    assert reasons == [before.finish_reason], (
        f"finish reasons are {reasons} through the SDK and {before.finish_reason} on the wire"
    )
    wired = before.metrics.output_tokens
    assert counted == wired, f"usage counts {counted} tokens through the SDK and {wired} on the wire"


def _through_the_sdk(client: openai.OpenAI, endpoint: Endpoint, tokens: int) -> tuple[str, list[str], int | None]:
    """Text, finish reasons and token count as a program that uses the SDK gets them."""
    asked: dict[str, Any] = {"model": endpoint.model, "stream": True, "temperature": 0, "max_tokens": tokens}
    asked["stream_options"] = {"include_usage": True}
    if endpoint.is_chat:
        pieces = list(client.chat.completions.create(messages=[{"role": "user", "content": _PROMPT}], **asked))
    else:
        pieces = list(client.completions.create(prompt=_PROMPT, **asked))
    choices = [choice for piece in pieces for choice in piece.choices]
    text = "".join((choice.delta.content if endpoint.is_chat else choice.text) or "" for choice in choices)
    usage = pieces[-1].usage
    reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
    return text, reasons, usage.completion_tokens if usage else None


@pytest.mark.parametrize("endpoint", [pytest.param("chat", marks=pytest.mark.requires_capability("chat"))], indirect=True)
def test_a_system_message_reaches_a_stream(ask: Asking, endpoint: Endpoint) -> None:
    """A system message that only counts without streaming takes the operator's rules away from most users."""
    # Many templates put a system message of their own where none is given, so a long one is compared with a short one.
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
    whole = ask.whole(endpoint, ruled_body).json()
    assert isinstance(whole, dict)
    expected = whole["usage"]["prompt_tokens"]
    assert with_rules == expected, f"{with_rules} prompt tokens streamed, {expected} in one piece"
