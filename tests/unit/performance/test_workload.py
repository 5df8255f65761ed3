"""Workloads and arrival times are what their names promise, and the same for the same seed."""

from __future__ import annotations

import itertools
import statistics

import pytest

from vllm_ci.performance import arrivals
from vllm_ci.performance.arrivals import Pattern
from vllm_ci.performance.workload import WORKLOADS, Ask, Lengths


def asks(name: str, count: int = 400, seed: int = 1) -> list[Ask]:
    return list(itertools.islice(WORKLOADS[name].asks(seed=seed), count))


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_same_seed_gives_the_same_requests_and_another_one_gives_others(name: str) -> None:
    assert asks(name, 20) == asks(name, 20)
    assert asks(name, 20) != asks(name, 20, seed=2)


@pytest.mark.parametrize("name", WORKLOADS)
def test_prompts_have_as_many_words_as_they_say(name: str) -> None:
    for ask in asks(name, 50):
        words = sum(len(message["content"].split()) for message in ask.messages)
        assert words == ask.prompt_tokens


@pytest.mark.slow
def test_lengths_have_the_median_and_mean_of_their_trace() -> None:
    found = asks("chat", 4000)
    prompts, outputs = [ask.prompt_tokens for ask in found], [ask.output_tokens for ask in found]
    assert statistics.median(prompts) == pytest.approx(1020, rel=0.05)
    assert statistics.fmean(prompts) == pytest.approx(1155, rel=0.05)
    assert statistics.median(outputs) == pytest.approx(129, rel=0.1)
    assert max(outputs) <= 1000


def test_a_turn_repeats_what_was_said_before_and_names_the_turn_that_it_follows() -> None:
    first, second, third, fourth, other = asks("multi-turn", 5)
    assert [ask.follows for ask in (first, second, third, fourth, other)] == [None, 0, 1, 2, None]
    assert second.messages[: len(first.messages)] == first.messages
    assert [message["role"] for message in fourth.messages] == ["user", "assistant"] * 3 + ["user"]


def test_a_shared_prefix_is_shared() -> None:
    heads = {ask.messages[0]["content"] for ask in asks("shared-prefix", 20)}
    assert len(heads) == 1
    assert len(heads.pop().split()) == 1000


def test_a_short_context_scales_the_workload_and_says_how_much() -> None:
    workload, factor = WORKLOADS["chat"].fitting(2048)
    assert 0 < factor < 1
    for ask in itertools.islice(workload.asks(seed=1), 300):
        assert ask.prompt_tokens + ask.output_tokens <= 2048
    assert WORKLOADS["chat"].fitting(0) == (WORKLOADS["chat"], 1.0)
    assert WORKLOADS["chat"].fitting(100_000)[1] == 1.0


def test_constant_lengths_are_possible() -> None:
    rng = __import__("random").Random(1)
    assert {Lengths(median=10, mean=10, largest=20).draw(rng) for _ in range(20)} == {10}


@pytest.mark.parametrize("pattern", Pattern)
def test_arrivals_have_the_rate_that_was_asked(pattern: Pattern) -> None:
    found = list(arrivals.times(pattern, 50, seed=3, duration_s=100))
    assert len(found) == pytest.approx(5000, rel=0.06)
    assert found == sorted(found)
    assert found == list(arrivals.times(pattern, 50, seed=3, duration_s=100))


def test_a_small_shape_is_burstier() -> None:
    def variation(burstiness: float) -> float:
        times = list(arrivals.times(Pattern.GAMMA, 50, seed=3, duration_s=100, burstiness=burstiness))
        gaps = [late - early for early, late in itertools.pairwise(times)]
        return statistics.stdev(gaps) / statistics.fmean(gaps)

    assert variation(0.25) > 1.5 > variation(1.0) > variation(4.0)


@pytest.mark.parametrize(("rate", "duration"), [(0, 1), (-1, 1), (1, 0)])
def test_impossible_arrivals_are_refused(rate: float, duration: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        arrivals.times(Pattern.POISSON, rate, seed=1, duration_s=duration)
