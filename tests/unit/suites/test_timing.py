"""Verdicts about the course of time: what a quiet and what a starved machine allow to say."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.suites.streaming.timing import (
    PAIRS,
    STARVED_PAIRS,
    STREAMS,
    Arrival,
    Outcome,
    Pair,
    delivered,
    delivered_together,
    first_came,
)

BUSY = "9.0 tasks were runnable for each processor"


def even(chunks: int = 100, *, first: float = 10, last: float = 1200, latency: float = 5) -> Arrival:
    """Chunks that come one after the other."""
    step = (last - first) / (chunks - 1)
    return Arrival(at_ms=[first + step * number for number in range(chunks)], latency_ms=latency)


def groups(number: int, chunks: int = 100, last: float = 1200) -> Arrival:
    """Chunks that come in some groups, the last one at the end."""
    at = [last * (1 + chunk * number // chunks) / number + chunk * 0.001 for chunk in range(chunks)]
    return Arrival(at_ms=at, latency_ms=5)


BURST = groups(1)


def until_decided(arrival: Arrival, starved: str) -> Outcome:
    tries = [arrival]
    while not (outcome := delivered(tries, starved)).verdict:
        tries.append(arrival)
    assert len(tries) <= STREAMS
    return outcome


@pytest.mark.parametrize("starved", ["", BUSY])
def test_a_progressive_stream_passes_at_once(starved: str) -> None:
    assert delivered([even()], starved).verdict == "passed"


@pytest.mark.parametrize("starved", ["", BUSY])
def test_a_long_wait_for_the_first_token_is_no_burst(starved: str) -> None:
    late = even(first=3010, last=3300, latency=3000)
    assert delivered([late], starved).verdict == "passed"


@pytest.mark.parametrize("starved", ["", BUSY])
def test_bursts_of_long_answers_fail_on_any_machine(starved: str) -> None:
    found = until_decided(BURST, starved)
    assert found.verdict == "failed"
    assert "in one burst" in found.reason
    assert "best of 8 streams" in found.reason


def test_bursts_of_short_answers_fail_only_on_a_machine_that_could_have_delivered() -> None:
    short = groups(1, last=300)
    assert until_decided(short, "").verdict == "failed"
    found = until_decided(short, BUSY)
    assert found.verdict == "inconclusive"
    assert BUSY in found.reason


@pytest.mark.parametrize("number", [2, 3, 4])
def test_groups_fail_on_a_quiet_machine_and_never_pass(number: int) -> None:
    assert until_decided(groups(number), "").verdict == "failed"
    assert until_decided(groups(number), BUSY).verdict == "inconclusive"


def test_chunks_of_several_tokens_are_no_groups() -> None:
    assert delivered([even(chunks=20, last=2000)], "").verdict == "passed"


def test_one_progressive_stream_of_many_is_enough() -> None:
    assert delivered([*[BURST] * 7, even()], "").verdict == "passed"


def test_answers_that_are_too_fast_say_nothing() -> None:
    assert until_decided(groups(1, last=30), "").verdict == "inconclusive"


@given(st.lists(st.floats(0, 5000), max_size=200), st.floats(0, 5000), st.sampled_from(["", BUSY]))
def test_any_arrival_has_a_verdict(times: list[float], latency: float, starved: str) -> None:
    assert until_decided(Arrival(at_ms=sorted(times), latency_ms=latency), starved).verdict


def decided(pairs: Sequence[Pair], starved: str) -> Outcome:
    for count in range(1, len(pairs) + 1):
        if (outcome := first_came(pairs[:count], starved)).verdict:
            return outcome
    raise AssertionError("no verdict")


EARLY = Pair(whole_ms=1000, first_ms=50, latency_ms=10)
LATE = Pair(whole_ms=1000, first_ms=1010, latency_ms=10)


def test_an_early_first_chunk_passes_and_a_starved_machine_needs_three() -> None:
    assert decided([EARLY], "").verdict == "passed"
    assert not first_came([EARLY, EARLY], BUSY).verdict
    assert decided([EARLY] * 3, BUSY).verdict == "passed"


@pytest.mark.parametrize(("starved", "pairs"), [("", PAIRS), (BUSY, STARVED_PAIRS)])
def test_a_first_chunk_that_is_always_late_fails_after_enough_pairs(starved: str, pairs: int) -> None:
    assert not first_came([LATE] * (pairs - 1), starved).verdict
    assert first_came([LATE] * pairs, starved).verdict == "failed"


def test_one_pair_that_is_not_late_is_enough_for_doubt() -> None:
    between = Pair(whole_ms=1000, first_ms=990, latency_ms=10)
    assert first_came([*[LATE] * (PAIRS - 1), between], "").verdict == "inconclusive"


def test_the_latency_of_a_slow_server_does_not_make_its_first_chunk_late() -> None:
    assert decided([Pair(whole_ms=3300, first_ms=3010, latency_ms=3000)], "").verdict == "passed"


def rounds(bad: int) -> list[list[Arrival]]:
    return [[even()] * (16 - bad) + [groups(1)] * bad] * STREAMS


def test_concurrent_streams_that_are_held_back_fail() -> None:
    assert delivered_together(rounds(1), "").verdict == "failed"
    assert delivered_together(rounds(1), BUSY).verdict == "inconclusive"
    assert delivered_together(rounds(8), BUSY).verdict == "failed"


def test_concurrent_streams_pass_with_a_good_round_or_two_on_a_starved_machine() -> None:
    good = rounds(0)[:1]
    assert delivered_together(good, "").verdict == "passed"
    assert not delivered_together(good, BUSY).verdict
    assert delivered_together(good * 2, BUSY).verdict == "passed"


def test_a_stream_that_runs_alone_at_the_end_may_be_faster() -> None:
    alone = even(first=1200, last=1500)
    assert delivered_together([[*[even()] * 15, alone]], "").verdict == "passed"
