"""Data of one user does not leak to others: not in answers, by timing, in metrics or in errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from vllm_ci.suites.answers import chunks
from vllm_ci.suites.client import ApiClient, Json, at_once, shown, user
from vllm_ci.suites.findings import Finding
from vllm_ci.suites.mixing import SWAPPED, MixedUpError
from vllm_ci.suites.server import ServerFacts

Judge = Callable[[Iterable[Finding]], None]

_MANY = 16
_HITS = "vllm:prefix_cache_hits_total"


@pytest.mark.compares_answers
@pytest.mark.requires_capability("completions", "echo")
def test_concurrent_streams_hear_only_themselves(client: ApiClient, canary: Callable[[], str]) -> None:
    """Each concurrent stream contains its own random word (by echo), and no word of another stream."""
    alone = canary()
    if alone not in _streamed(client, alone):
        pytest.skip("its streams do not repeat the prompt (echo), so that they cannot be told apart by it")
    words = [canary() for _ in range(_MANY)]
    texts = at_once(lambda word: _streamed(client, word), words)
    for word, text in zip(words, texts, strict=True):
        strangers = [other for other in words if other != word and other in text]
        if strangers:
            raise MixedUpError(SWAPPED, f"a stream contains {len(strangers)} words of other streams")
        assert word in text, f"a stream does not contain its own word {word}"


@pytest.mark.requires_capability("chat", "metrics")
def test_a_salt_keeps_the_prefix_cache_apart(client: ApiClient, canary: Callable[[], str]) -> None:
    """With another salt the same prompt has no cache hits, which would reveal prompts of others by timing."""
    secret = f"{canary()} " * 40

    def hits(salt: str) -> float:
        before = client.metrics().total(_HITS)
        client.chat(secret, max_tokens=1, cache_salt=salt)
        return client.metrics().total(_HITS) - before

    first, again, other = hits("mine"), hits("mine"), hits("theirs")
    if not again:
        pytest.skip("the server has no prefix cache")
    assert not first, f"a new prompt has {first:.0f} tokens in the cache"
    assert not other, f"with another salt, {other:.0f} tokens of the prompt are in the cache"


def test_metrics_hold_no_prompt(client: ApiClient, canary: Callable[[], str], api_key: str) -> None:
    """More people can read metrics than may read prompts."""
    before = client.http.get("/metrics")
    if before.status_code != 200:
        pytest.skip(f"the server shows no metrics: {shown(before)}")
    word = canary()
    for fields in ({"user": word}, {"user": word, "stream": True}, {"metadata": {"note": word}}, {"temperature": -1}):
        client.post(client.path, client.body(f"{word} {word}", max_tokens=2, **fields), headers={"X-Request-Id": word})
    text = client.http.get("/metrics").text
    assert word not in text, "the metrics contain a prompt, or what a request says about its user"
    assert not api_key or api_key not in text, "the metrics contain the API key"


_MISTAKES: dict[str, Json] = {
    "temperature": {"temperature": -1},
    "schema": {"response_format": {"type": "json_schema"}},
    "length": {"max_tokens": 10**9},
    "temperature, streamed": {"temperature": -1, "stream": True},
    "schema, streamed": {"response_format": {"type": "json_schema"}, "stream": True},
    "model": {"model": "no-such-model"},
    "stop": {"stop": {"a": 1}},
}


def test_errors_hold_no_prompt(client: ApiClient, canary: Callable[[], str], api_key: str, judge: Judge) -> None:
    """Errors hold no key and nothing of other requests; the own prompt is a minor finding, because errors are often logged."""
    found, earlier = [], [canary()]
    client.post(client.path, client.body(earlier[0], max_tokens=1))
    for name, fields in _MISTAKES.items():
        word = canary()
        answer = client.post(client.path, {**client.body(word, max_tokens=1), **fields})
        if answer.status_code >= 400 and word in answer.text:
            message = (
                f"the error for an invalid {name} contains the prompt, which its sender knows but whoever logs errors keeps"
            )
            found.append(Finding(id=f"prompt-in-error:{name}", severity="low", message=message))
        if any(other in answer.text for other in earlier):
            message = f"the error for an invalid {name} contains the prompt of another request"
            found.append(Finding(id=f"foreign-prompt-in-error:{name}", severity="critical", message=message))
        if api_key and api_key in answer.text:
            message = f"the error for an invalid {name} contains the API key"
            found.append(Finding(id=f"key-in-error:{name}", severity="critical", message=message))
        earlier.append(word)
    judge(found)


@pytest.mark.requires_capability("chat")
def test_answers_carry_no_key(client: ApiClient, server: ServerFacts, api_key: str) -> None:
    """Responses do not contain the API key."""
    if not api_key:
        pytest.skip("the API key was not given (--vllm-api-key-env)")
    for answer in (
        client.post("/v1/chat/completions", {"model": server.model, "messages": [user("x")], "max_tokens": 1}),
        client.http.get("/v1/models"),
        client.http.get("/version"),
    ):
        assert api_key not in answer.text, f"{answer.request.url.path} returns the key in its body"
        assert api_key not in str(answer.headers), f"{answer.request.url.path} returns the key in its headers"


def _streamed(client: ApiClient, word: str) -> str:
    """The text of a stream."""
    body = {"model": client.model, "prompt": word, "max_tokens": 8, "echo": True, "stream": True}
    with client.http.stream("POST", "/v1/completions", json=body) as answer:
        found = chunks(answer.read())
    return "".join(choice.get("text") or "" for chunk in found for choice in chunk.get("choices") or ())
