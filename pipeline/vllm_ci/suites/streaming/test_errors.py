"""Invalid requests are refused before the stream starts, in a format that clients understand."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_ci.loadgen.exchange import Exchange
from vllm_ci.loadgen.stream import Stream
from vllm_ci.suites.integration.refusals import CRASH, ErrorBodyError
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.streaming.asking import Asking, Endpoint
from vllm_ci.suites.streaming.causes import cause_of, fatal, holds

_BAD: dict[str, dict[str, Any]] = {
    "unknown-model": {"model": "no-such-model"},
    "negative-max-tokens": {"max_tokens": -1},
    "temperature-below-zero": {"temperature": -1},
    "top-p-above-one": {"top_p": 7},
    "wrong-type": {"max_tokens": "many"},
    "wrong-stream-options": {"stream_options": "usage"},
}
_REFUSALS = {400, 404, 422}
_JSON = {"application/json", "application/problem+json"}
_BODY = ErrorBodyError.cause


def _refused(answer: Exchange, statuses: set[int]) -> None:
    """Check for a JSON error with a message and one of the statuses.

    Raises:
        StreamFault: It is a server error, or its body is no error that clients read.
    """
    holds(CRASH, right=answer.status < 500, message=f"an invalid request gets a server error: {answer.describe()}")
    assert answer.status in statuses, f"expected one of {sorted(statuses)}: {answer.describe()}"
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    holds(_BODY, right=kind in _JSON, message=f"the error's content type is {kind!r}: {answer.text[:200]}")
    holds(_BODY, right=bool(_message(answer)), message=f"the error has no message: {answer.text[:200]}")


def _message(answer: Exchange) -> object:
    """The message of an error, in any shape that servers use; nothing if it has none."""
    try:
        body = answer.json()
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    error = body.get("error", body)
    return error.get("message") or error.get("detail") if isinstance(error, dict) else error


def _lenient(stream: Stream, server: ServerFacts, what: str) -> None:
    """Skip if another server than vLLM, which documents its refusals, accepts a value and answers with a complete stream.

    Raises:
        BrokenStreamError: The stream was begun, and has an error.
    """
    if stream.exchange.status != 200:
        return
    cause_of(stream, "stream-error-object")
    if not server.is_vllm and fatal(stream) is None:
        pytest.skip(f"the server accepts {what}, as some servers do, and answers normally")


@pytest.mark.parametrize("name", _BAD)
def test_a_bad_request_is_refused_before_the_stream(ask: Asking, endpoint: Endpoint, server: ServerFacts, name: str) -> None:
    """The status is an error; most clients miss an error inside a stream with status 200.

    404 for an unknown model is that of the OpenAI API; gateways say 400 or 403.
    """
    stream = ask.attempt(endpoint, {**endpoint.body("hello", max_tokens=4), **_BAD[name]})
    _lenient(stream, server, name)
    _refused(stream.exchange, {*_REFUSALS, 403} if name == "unknown-model" else _REFUSALS - {404})
    ask.stream(endpoint, endpoint.exactly("hello", 2))


def test_a_prompt_that_is_too_long_is_refused_before_the_stream(ask: Asking, endpoint: Endpoint, server: ServerFacts) -> None:
    """A prompt above the limit is the most common error in production."""
    if not server.max_model_len:
        pytest.skip("the server does not report the maximum length of a prompt")
    if server.max_model_len > 200_000:
        pytest.skip(f"a prompt above {server.max_model_len} tokens is too large to send")
    prompt = "hello world and a number 1 2 3 4 5 6 7 8 9 " * (server.max_model_len // 4)
    stream = ask.attempt(endpoint, endpoint.body(prompt, max_tokens=4))
    _lenient(stream, server, "a prompt above its limit (it may cut it)")
    _refused(stream.exchange, {400, 413, 422})
    ask.stream(endpoint, endpoint.exactly("hello", 2))


def test_stream_options_without_a_stream_are_refused(ask: Asking, endpoint: Endpoint, server: ServerFacts) -> None:
    """The wire format allows them only with `stream: true`; ignoring them would hide a client's mistake."""
    answer = ask.recorder.post(endpoint.path, endpoint.body("hello", max_tokens=2, stream_options={"include_usage": True}))
    if answer.ok and not server.is_vllm:
        pytest.skip("the server ignores stream_options without a stream, as some servers do")
    _refused(answer, {400, 422})


def test_no_stream_that_was_begun_holds_an_error(ask: Asking, endpoint: Endpoint) -> None:
    """Twenty streams with various valid parameters are complete and contain no error object."""
    changes: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0.5, "top_p": 0.9},
        {"temperature": 1, "seed": 1},
        {"presence_penalty": 1.0, "frequency_penalty": -1.0},
        {"stop": ["\n\n", "###"]},
    ]
    bodies = [endpoint.body(f"hello {n}", max_tokens=6, **changes[n % len(changes)]) for n in range(20)]
    streams = ask.attempts(endpoint, bodies)
    for stream in streams:
        cause_of(stream, "stream-error-object")
    ask.need(streams)
