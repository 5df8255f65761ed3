"""Log probabilities match the returned tokens."""

from __future__ import annotations

import math

import pytest

from vllm_ci.suites.answers import Answer
from vllm_ci.suites.client import ApiClient
from vllm_ci.suites.verdicts import Fault

_CHAT = pytest.mark.requires_capability("logprobs")
_ROUNDING = 1e-3
_TOKENS = 12
_SAME = 0.15
"""Two computations of one log probability may differ by this much in half precision; a wrong token differs by more."""


@pytest.fixture(scope="module")
def chosen(client: ApiClient) -> Answer:
    """A greedy chat answer with the three most likely candidates for each token."""
    return client.talk("hello", temperature=0, logprobs=True, top_logprobs=3, **client.exactly(_TOKENS))


def entries(answer: Answer) -> list[tuple[float, list[float]]]:
    """Log probability of each token, and of its candidates."""
    found = []
    for at in range(len(answer.read("choices", 0, "logprobs", "content", of=list))):
        path = ("choices", 0, "logprobs", "content", at)
        count = len(answer.read(*path, "top_logprobs", of=list))
        candidates = [answer.read(*path, "top_logprobs", each, "logprob", of=(int, float)) for each in range(count)]
        found.append((answer.read(*path, "logprob", of=(int, float)), candidates))
    return found


@_CHAT
def test_every_token_has_its_log_probability(client: ApiClient, chosen: Answer) -> None:
    """One entry per token; a probability is at most 1, so its logarithm is at most 0."""
    found = entries(chosen)
    counted = chosen.completion_tokens
    # The token that ends an answer may be left out.
    ended = 1 if chosen.finish_reason == "stop" else 0
    fits = client.counts(len(found), _TOKENS) if counted is None else counted - ended <= len(found) <= counted
    assert fits, f"{len(found)} entries for {counted} tokens"
    values = [value for value, _ in found]
    assert all(math.isfinite(value) and value <= _ROUNDING for value in values), f"log probabilities are {values}"


@_CHAT
def test_the_tokens_are_those_of_the_answer(chosen: Answer) -> None:
    """The entries, one after the other, spell the answer."""
    tokens = [str(chosen.read("choices", 0, "logprobs", "content", at, "token", of=str)) for at in range(len(entries(chosen)))]
    # Tokens may hold parts of characters, and special tokens that the text leaves out; plain letters are in both.
    spelled = iter(_letters("".join(tokens)))
    assert all(letter in spelled for letter in _letters(chosen.text)), f"the tokens {tokens} do not spell {chosen.text!r}"


@_CHAT
def test_as_many_candidates_as_were_asked_for(chosen: Answer) -> None:
    """Their probabilities add up to at most 1; "in rare cases" there may be fewer (OpenAI API reference, ``top_logprobs``)."""
    counts = [len(candidates) for _, candidates in entries(chosen)]
    assert not counts or (max(counts) in (3, 4)), f"requested 3 candidates, got {counts}"
    for _, candidates in entries(chosen):
        total = sum(math.exp(min(candidate, 1.0)) for candidate in candidates)
        assert total <= 1 + _ROUNDING, f"the candidates' probabilities add up to {total:.3f}"


@pytest.mark.requires_capability("temperature")
@_CHAT
def test_greedy_decoding_takes_the_likeliest_candidate(chosen: Answer) -> None:
    """Otherwise the chosen token or the probabilities are wrong."""
    for value, candidates in entries(chosen):
        best = max(candidates, default=value)
        assert value >= best - _ROUNDING, f"chose a token with {value:.3f}; the most likely has {best:.3f}"


@pytest.mark.requires_capability("logprobs", "choices")
def test_every_choice_has_its_log_probabilities(client: ApiClient) -> None:
    """With n, each choice with a text has entries of its own."""
    answer = client.talk("hello", n=2, temperature=1, logprobs=True, top_logprobs=1, **client.exactly(4))
    for at, text in enumerate(answer.texts):
        held = answer.choices[at].get("logprobs")
        entries_of_it = held.get("content") if isinstance(held, dict) else None
        assert entries_of_it or not text, f"choice {at} says {text!r}, but its logprobs are {held}"


@pytest.mark.requires_capability("logprobs", "temperature")
def test_excluded_candidates_leave_a_valid_answer(client: ApiClient) -> None:
    """A candidate that sampling excludes may have the probability 0, whose logarithm is no number of JSON (RFC 8259)."""
    client.talk("hello", temperature=1.0, top_p=1e-6, logprobs=True, top_logprobs=3, max_tokens=2)


@pytest.mark.requires_capability("chat")
def test_no_logprobs_unless_asked(client: ApiClient) -> None:
    """They are large, so they are only sent on request."""
    found = client.talk("hello", max_tokens=1).choice.get("logprobs")
    assert not (found.get("content") if isinstance(found, dict) else found), "got log probabilities without requesting them"


@pytest.mark.requires_capability("completion_logprobs")
def test_completions_align_tokens_and_offsets(client: ApiClient) -> None:
    """The lists of the completions format have the same length and order."""
    answer = client.finish("hello", temperature=0, logprobs=2, **client.exactly(6))
    found = answer.read("choices", 0, "logprobs", of=dict)
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    lengths = {name: len(found[name]) for name in names if isinstance(found.get(name), list)}
    count = len(answer.read("choices", 0, "logprobs", "tokens", of=list))
    assert set(lengths.values()) == {count}, f"the lists have the lengths {lengths}"
    assert client.counts(count, 6), f"the lists for 6 tokens have {count} entries"
    offsets = found.get("text_offset") or []
    assert offsets == sorted(offsets), f"the offsets are not ascending: {offsets}"


@pytest.mark.requires_capability("completion_logprobs", "tokenize", "logit_bias")
def test_offsets_are_places_in_the_text(client: ApiClient) -> None:
    """A text offset is the place where its token begins: it grows by the length of the token before."""
    letters = {str(client.tokens(letter, add_special_tokens=False)[-1]): 40 for letter in "hxqw"}
    answer = client.finish("hello", temperature=1.0, logit_bias=letters, logprobs=1, **client.exactly(6))
    tokens, offsets = (answer.read("choices", 0, "logprobs", name, of=list) for name in ("tokens", "text_offset"))
    if "".join(map(str, tokens)) != answer.text or not answer.text.isascii():
        pytest.skip(f"the tokens {tokens} are not the parts of the text {answer.text!r}")
    expected = [sum(len(token) for token in tokens[:at]) for at in range(len(tokens))]
    found = [offset - offsets[0] for offset in offsets]  # the prompt may be counted
    assert found == expected, f"the tokens {tokens} have the offsets {offsets}"


@pytest.mark.requires_capability("completion_logprobs", "echo")
def test_a_token_has_the_same_probability_when_it_is_scored_later(client: ApiClient) -> None:
    """Scoring an answer with echo gives the same probability as its generation; evaluations depend on it."""
    asked = {"temperature": 0, "max_tokens": 1, "logprobs": 1}
    generated = _values(client.finish("hello world", **asked))[0]
    scored = _values(client.finish("hello world", **asked, echo=True))
    if generated is None or scored[-1] is None:
        raise Fault(f"the generated token has no log probability: {generated}, {scored}")
    assert abs(scored[-1] - generated) < _SAME, f"generated at {generated:.4f}, scored at {scored[-1]:.4f}"
    assert scored[0] is None, "the first token of a prompt must not have a log probability"


def _values(answer: Answer) -> list[float | None]:
    found: list[float | None] = answer.read("choices", 0, "logprobs", "token_logprobs", of=list)
    if not found:
        raise Fault(f"{answer.where}: token_logprobs is empty")
    return found


def _letters(text: str) -> str:
    return "".join(char for char in text if char.isascii() and char.isalnum())
