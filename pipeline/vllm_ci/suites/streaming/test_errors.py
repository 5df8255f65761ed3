"""Invalid requests are refused before the stream starts, in a format that clients understand."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_ci.loadgen.exchange import Exchange
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.streaming.asking import Asking, Endpoint

_BAD: dict[str, tuple[dict[str, Any], set[int]]] = {
    "unknown-model": ({"model": "no-such-model"}, {404}),
    "negative-max-tokens": ({"max_tokens": -1}, {400, 422}),
    "temperature-below-zero": ({"temperature": -1}, {400, 422}),
    "top-p-above-one": ({"top_p": 7}, {400, 422}),
    "wrong-type": ({"max_tokens": "many"}, {400, 422}),
    "wrong-stream-options": ({"stream_options": "usage"}, {400, 422}),
}


def _refused(answer: Exchange, statuses: set[int]) -> None:
    """Check for a JSON error with a message and one of the statuses."""
    assert answer.status in statuses, f"expected {sorted(statuses)}: {answer.describe()}"
    kind = answer.headers.get("content-type", "").partition(";")[0]
    assert kind == "application/json", f"the error's content type is {kind!r}"
    body = answer.json()
    assert isinstance(body, dict), f"the error is not a JSON object: {answer.text[:200]}"
    error = body.get("error", body)
    message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    assert message, f"the error has no message: {answer.text[:200]}"


@pytest.mark.parametrize("name", _BAD)
def test_a_bad_request_is_refused_before_the_stream(ask: Asking, endpoint: Endpoint, name: str) -> None:
    """The status is an error; most clients miss an error inside a stream with status 200."""
    change, statuses = _BAD[name]
    stream = ask.recorder.stream(endpoint.path, {**endpoint.body("hello", max_tokens=4), **change})
    _refused(stream.exchange, statuses)
    ask.stream(endpoint, endpoint.body("hello", max_tokens=2, ignore_eos=True))


def test_a_prompt_that_is_too_long_is_refused_before_the_stream(ask: Asking, endpoint: Endpoint, server: ServerFacts) -> None:
    """A prompt above the limit is the most common error in production."""
    if not server.max_model_len:
        pytest.skip("the server does not report the maximum length of a prompt")
    if server.max_model_len > 200_000:
        pytest.skip(f"a prompt above {server.max_model_len} tokens is too large to send")
    prompt = "hello world and a number 1 2 3 4 5 6 7 8 9 " * (server.max_model_len // 4)
    stream = ask.recorder.stream(endpoint.path, endpoint.body(prompt, max_tokens=4))
    _refused(stream.exchange, {400, 413, 422})
    ask.stream(endpoint, endpoint.body("hello", max_tokens=2, ignore_eos=True))


def test_stream_options_without_a_stream_are_refused(ask: Asking, endpoint: Endpoint) -> None:
    """The wire format allows them only with `stream: true`; ignoring them would hide a client's mistake."""
    body = endpoint.body("hello", max_tokens=2, stream_options={"include_usage": True})
    _refused(ask.recorder.post(endpoint.path, body), {400, 422})


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
    streams = ask.recorder.streams(endpoint.path, bodies)
    errors = [f"stream {number}: {stream.error}" for number, stream in enumerate(streams) if stream.error is not None]
    assert not errors, f"{len(errors)} of 20 streams contain an error; {errors[0][:300]}"
    broken = [stream.describe() for stream in streams if not stream.complete]
    assert not broken, f"{len(broken)} of 20 streams are not complete: {broken[0]}"
