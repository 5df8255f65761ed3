"""Characters are not broken at the boundaries of tokens, chunks and reads."""

from __future__ import annotations

import pytest

from vllm_ci.suites.streaming.asking import Asking, Endpoint, usage_of
from vllm_ci.suites.streaming.causes import COUNTED, holds
from vllm_ci.suites.work import Sizes

_WORDS = {
    "accents": "éàüñçß",
    "japanese": "日本語の文",
    "emoji": "😀🎉👍🏽",
    "joined": "👩‍👩‍👧 ว่า नमस्ते",
    "mixed": 'a é 日 😀 "quoted" \\ back',
}


@pytest.mark.sized(tokens=(200, 64))
def test_a_stream_is_valid_utf8(ask: Asking, endpoint: Endpoint, size: Sizes) -> None:
    """Every byte of the stream is valid UTF-8, also with byte tokens; one invalid byte ends the stream in strict clients."""
    stream = ask.stream(endpoint, endpoint.exactly("日本語 😀", size.tokens, temperature=1, seed=5))
    try:
        stream.exchange.body.decode("utf-8")
    except UnicodeDecodeError as error:
        pytest.fail(f"the stream is not valid UTF-8: {error}")


@pytest.mark.requires_capability("structured_outputs_field")
@pytest.mark.parametrize("name", _WORDS)
def test_characters_of_several_tokens_are_not_broken(ask: Asking, endpoint: Endpoint, name: str) -> None:
    """The model is forced to generate this text (vLLM's structured_outputs), which has several tokens per character."""
    text = _WORDS[name]
    body = endpoint.body("Say it.", max_tokens=200, temperature=0, structured_outputs={"choice": [text]})
    stream = ask.stream(endpoint, body)
    assert stream.text == text, f"{text!r} arrived as {stream.text!r}"


@pytest.mark.requires_capability("structured_outputs_field")
def test_no_half_character_is_shown_on_the_way(ask: Asking, endpoint: Endpoint) -> None:
    """No chunk contains a part of a character, because clients display chunks immediately."""
    body = endpoint.body("Say it.", max_tokens=200, temperature=0, structured_outputs={"choice": ["日本語 😀"]})
    stream = ask.stream(endpoint, body)
    shown = ""
    for chunk in stream.chunks:
        for choice in chunk.choices:
            delta = choice.get("delta")
            shown += str((delta.get("content") if isinstance(delta, dict) else choice.get("text")) or "")
        assert "日本語 😀".startswith(shown), f"after one of the chunks the text is {shown!r}"


@pytest.mark.requires_capability("usage", "stream_usage")
def test_a_prompt_in_many_scripts_is_read_as_in_one_piece(ask: Asking, endpoint: Endpoint) -> None:
    """A prompt has the same number of tokens with and without streaming."""
    prompt = " ".join(_WORDS.values())
    streamed = ask.stream(endpoint, endpoint.body(prompt, max_tokens=2)).metrics.prompt_tokens
    whole = usage_of(ask.whole(endpoint, endpoint.body(prompt, max_tokens=2)), "prompt_tokens")
    holds(COUNTED, right=streamed == whole, message=f"{streamed} prompt tokens streamed, {whole} without streaming")
