"""Log probabilities match the returned tokens."""

from __future__ import annotations

import math

import pytest

from vllm_ci.suites.client import ApiClient, Json

pytestmark = pytest.mark.requires_capability("logprobs")

_ROUNDING = 1e-3


@pytest.fixture(scope="module")
def chosen(client: ApiClient) -> Json:
    """A greedy chat answer of six tokens with the three most likely candidates for each."""
    answer = client.chat("hello", temperature=0, max_tokens=6, ignore_eos=True, logprobs=True, top_logprobs=3)
    return dict(answer["choices"][0])


def test_every_token_has_its_log_probability(chosen: Json) -> None:
    """One entry per token; a probability is at most 1, so its logarithm is at most 0."""
    entries = chosen["logprobs"]["content"]
    assert len(entries) == 6, f"{len(entries)} entries for 6 tokens"
    values = [entry["logprob"] for entry in entries]
    assert all(math.isfinite(value) and value <= _ROUNDING for value in values), f"log probabilities are {values}"


def test_as_many_candidates_as_were_asked_for(chosen: Json) -> None:
    """Their probabilities add up to at most 1."""
    for entry in chosen["logprobs"]["content"]:
        candidates = entry["top_logprobs"]
        assert len(candidates) in (3, 4), f"requested 3 candidates, got {len(candidates)}"
        total = sum(math.exp(candidate["logprob"]) for candidate in candidates)
        assert total <= 1 + _ROUNDING, f"the candidates' probabilities add up to {total:.3f}"


def test_greedy_decoding_takes_the_likeliest_candidate(chosen: Json) -> None:
    """Otherwise the chosen token or the probabilities are wrong."""
    for entry in chosen["logprobs"]["content"]:
        best = max(candidate["logprob"] for candidate in entry["top_logprobs"])
        assert entry["logprob"] >= best - _ROUNDING, (
            f"chose a token with {entry['logprob']:.3f}; the most likely has {best:.3f}"
        )


def test_no_logprobs_unless_asked(client: ApiClient) -> None:
    """They are large, so they are only sent on request."""
    answer = client.chat("hello", max_tokens=1)
    assert not answer["choices"][0].get("logprobs"), "got log probabilities without requesting them"


@pytest.mark.requires_capability("completions")
def test_completions_align_tokens_and_offsets(client: ApiClient) -> None:
    """The lists of the completions format have the same length and order."""
    answer = client.complete("hello", temperature=0, max_tokens=6, ignore_eos=True, logprobs=2)
    found = answer["choices"][0]["logprobs"]
    lengths = {name: len(found[name]) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}
    assert set(lengths.values()) == {6}, f"the lists for 6 tokens have the lengths {lengths}"
    assert found["text_offset"] == sorted(found["text_offset"]), f"the offsets are not ascending: {found['text_offset']}"


@pytest.mark.requires_capability("completions")
def test_a_token_has_the_same_probability_when_it_is_scored_later(client: ApiClient) -> None:
    """Scoring an answer with echo gives the same probability as its generation; evaluations depend on it."""
    first = client.complete("hello world", temperature=0, max_tokens=1, logprobs=1)["choices"][0]
    generated = first["logprobs"]["token_logprobs"][0]
    scored = client.complete("hello world", temperature=0, max_tokens=1, logprobs=1, echo=True)["choices"][0]["logprobs"]
    assert abs(scored["token_logprobs"][-1] - generated) < 0.05, (
        f"generated at {generated:.4f}, scored at {scored['token_logprobs'][-1]:.4f}"
    )
    assert scored["token_logprobs"][0] is None, "the first token of a prompt must not have a log probability"
