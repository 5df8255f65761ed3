"""How long rate limits are waited for, and what is remembered of requests."""

from __future__ import annotations

import datetime as dt
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.suites.refusals import seconds_of
from vllm_ci.suites.traffic import RateLimitedError, Traffic


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_header_is_obeyed() -> None:
    assert Traffic().pause_s(429, "7", 0) == 7


def test_waits_double_without_the_header_up_to_a_bound() -> None:
    traffic = Traffic(total_wait_s=1000)
    assert [traffic.pause_s(429, None, attempt) for attempt in range(6)] == [1, 2, 4, 8, 8, 8]


def test_a_server_that_says_zero_is_not_asked_without_a_pause() -> None:
    traffic = Traffic(total_wait_s=1000)
    waits = [traffic.pause_s(429, "0", attempt) or 0 for attempt in range(20)]
    assert waits[0] > 0
    assert waits == sorted(waits)
    assert waits[-1] == 8


def test_concurrent_waits_count_once() -> None:
    traffic = Traffic(total_wait_s=10, clock=Clock())
    assert [traffic.pause_s(429, "9", 0) for _ in range(16)] == [9] * 16
    assert traffic.waited_s == 9


def test_waits_one_after_the_other_add_up_to_the_bound() -> None:
    clock = Clock()
    traffic = Traffic(total_wait_s=10, clock=clock)
    assert traffic.pause_s(429, "6", 0) == 6
    clock.now += 6
    with pytest.raises(RateLimitedError, match="at most 10 s"):
        traffic.pause_s(429, "6", 1)
    assert traffic.facts == {"rate_limited_requests": 2, "waited_for_rate_limits_s": 6.0}


def test_other_answers_stand() -> None:
    traffic = Traffic()
    assert [traffic.pause_s(status, None, 0) for status in (200, 400, 500, 503)] == [None] * 4
    assert traffic.facts == {}


def test_a_date_is_read() -> None:
    later = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=30)
    assert 28 < (seconds_of(format_datetime(later, usegmt=True)) or 0) <= 30
    assert seconds_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@given(st.text(max_size=40))
def test_any_other_header_is_taken_as_absent_or_as_a_time(text: str) -> None:
    found = seconds_of(text)
    assert found is None or found >= 0


def test_the_last_request_is_remembered_in_short() -> None:
    traffic = Traffic()
    traffic.sent("POST", "/v1/completions", b"\xff" + b"x" * 1000)
    assert traffic.last is not None
    assert "1,001 bytes" in str(traffic.last)
    assert len(str(traffic.last)) < 400
