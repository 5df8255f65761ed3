"""Overload of servers that answer one request at a time: what is refused, what fails, and when latency is back."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles.running import running
from standin.crowded import Crowded
from vllm_ci.domain.report import Verdict
from vllm_ci.loadgen.exchange import Exchange, Failure, FailureKind
from vllm_ci.loadgen.stream import Stream
from vllm_ci.performance.headroom import speed
from vllm_ci.performance.measuring import Setting
from vllm_ci.performance.outcome import Outcome, outcome_of, retry_after
from vllm_ci.performance.overload import overload
from vllm_ci.performance.overload_result import Overload, summary
from vllm_ci.performance.recovery import WINDOW, Plan, back_at
from vllm_ci.performance.server import Served, served
from vllm_ci.performance.workload import Lengths, Workload

pytestmark = pytest.mark.slow

SMALL = Workload(
    name="small",
    version=1,
    source="a test",
    prompt=Lengths(median=8, mean=9, largest=16),
    output=Lengths(median=2, mean=2, largest=2),
)
SETTING = Setting(workload=SMALL, duration_s=1.2, timeout_s=4)


@contextmanager
def crowded(mode: str) -> Iterator[Served]:
    with running(lambda: Crowded(mode)) as (url, _):
        yield served(url)


def tried(mode: str, setting: Setting = SETTING) -> Overload:
    with crowded(mode) as server:
        found = overload(server, setting)
    if any("the client sent requests" in reason for reason in found.reasons):
        pytest.skip(f"this machine was too busy to measure: {found.reasons[0]}")
    assert found.overload is not None, found.reasons
    json.dumps(found.document(), allow_nan=False)
    return found


def test_a_server_that_refuses_what_it_cannot_serve_passes_and_is_back_at_once() -> None:
    found = tried("refuses")
    assert found.verdict is Verdict.PASSED, found.reasons
    assert found.overload is not None
    assert found.overload.outcomes[Outcome.REFUSED] > 10
    assert set(found.overload.outcomes) == {Outcome.SERVED, Outcome.REFUSED}
    assert found.capacity is not None
    assert 15 < found.capacity.capacity_per_s < 34
    assert found.overload.served_per_s > 0.6 * found.capacity.capacity_per_s
    assert found.drained_s is not None
    assert found.drained_s < 1
    assert found.back_s is not None
    assert found.back_s < 2
    assert "refused" in summary(found)
    before, peak, after = found.memory["rss_bytes"]
    assert 1e6 < before <= peak
    assert after <= peak


def test_a_server_that_queues_everything_passes_and_is_back_when_the_queue_is_empty() -> None:
    found = tried("queues", Setting(workload=SMALL, duration_s=2, rate=6))
    assert found.verdict is Verdict.PASSED, found.reasons
    assert found.overload is not None
    assert set(found.overload.outcomes) == {Outcome.SERVED}
    assert found.drained_s is not None
    assert found.drained_s > 0.5, "at twice the capacity, two seconds leave a queue of about two seconds"
    assert found.back_s is not None
    assert found.back_s > 0.5
    assert found.calm is not None
    assert found.calm.rate == 6


def test_a_refusal_without_retry_after_is_counted_apart() -> None:
    found = tried("refuses-bare")
    assert found.verdict is Verdict.PASSED, found.reasons
    assert found.overload is not None
    assert found.overload.outcomes[Outcome.REFUSED_BARE] > 10
    assert Outcome.REFUSED not in found.overload.outcomes


def test_server_errors_under_overload_fail() -> None:
    found = tried("errors")
    assert found.verdict is Verdict.FAILED
    assert any("requests ended with server error" in reason for reason in found.reasons)


def test_a_server_that_stays_slow_fails() -> None:
    found = tried("slows", replace(SETTING, duration_s=2))
    assert found.verdict is Verdict.FAILED
    assert found.back_s is None
    assert any("latency was not back" in reason for reason in found.reasons)
    assert "latency was not back" in summary(found)


def test_answers_with_missing_tokens_fail() -> None:
    found = tried("short")
    assert found.verdict is Verdict.FAILED
    assert any("another number of tokens" in reason for reason in found.reasons)


def test_a_server_that_stays_slow_after_the_search_is_not_overloaded_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("standin.crowded.MANY", 10)
    with crowded("slows") as server:
        found = overload(server, SETTING)
    assert found.verdict in (Verdict.FAILED, Verdict.INCONCLUSIVE)
    if found.verdict is Verdict.INCONCLUSIVE:
        pytest.skip(f"this machine was too busy to measure: {found.reasons[0]}")
    assert "did not recover from the search" in found.reasons[0]
    assert found.overload is None


def test_a_rate_near_the_capacity_is_not_calm() -> None:
    with crowded("queues") as server:
        found = overload(server, Setting(workload=SMALL, duration_s=2, rate=30))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "lower --rate" in found.reasons[0] or "the client sent requests" in found.reasons[0]


def test_a_server_that_refuses_single_requests_gives_errored_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with crowded("errors") as server:
        monkeypatch.setattr("standin.crowded.FEW", 0)
        begun = time.monotonic()
        found = overload(server, replace(SETTING, duration_s=60))
    assert found.verdict is Verdict.ERRORED
    assert "no single request succeeded: status 500" in found.reasons[0]
    assert time.monotonic() - begun < 4


def test_a_server_that_is_gone_gives_errored() -> None:
    with crowded("queues") as server:
        pass
    found = overload(server, SETTING)
    assert found.verdict is Verdict.ERRORED
    json.dumps(found.document(), allow_nan=False)


def test_less_than_the_capacity_is_no_overload() -> None:
    with crowded("queues") as server, pytest.raises(ValueError, match="no overload"):
        overload(server, SETTING, factor=1)


def stream(head: bytes = b"", *, failure: FailureKind | None = None, message: str = "", closed: bool = True) -> Stream:
    return Stream(
        exchange=Exchange(
            method="POST",
            path="/",
            begun_ns=0,
            sent_ns=0,
            ended_ns=2,
            clocks_ns=(1,) if head else (),
            data=(head,) if head else (),
            closed=closed,
            transport_failure=Failure(kind=failure, message=message) if failure else None,
        )
    )


WHOLE = (
    b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n'
    b'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}\n\ndata: [DONE]\n\n'
)


def ok(body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%b" % (size, body)


def refused(status: bytes, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b X\r\ncontent-length: 0\r\n%b\r\n" % (status, more)


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        (stream(ok(WHOLE)), Outcome.SERVED),
        (stream(ok(WHOLE[:60])), Outcome.BROKEN),
        (stream(ok(WHOLE, 5000)), Outcome.BROKEN),
        (stream(ok(b'data: {"error": {"message": "overloaded", "code": 503}}\n\n')), Outcome.BROKEN),
        (stream(refused(b"429", b"Retry-After: 3\r\n")), Outcome.REFUSED),
        (stream(refused(b"503", b"Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n")), Outcome.REFUSED),
        (stream(refused(b"503", b"Retry-After: soon\r\n")), Outcome.REFUSED_BARE),
        (stream(refused(b"429")), Outcome.REFUSED_BARE),
        (stream(refused(b"500")), Outcome.SERVER_ERROR),
        (stream(refused(b"502")), Outcome.SERVER_ERROR),
        (stream(refused(b"400")), Outcome.REJECTED),
        (stream(), Outcome.RESET),
        (stream(failure=FailureKind.DISCONNECTED), Outcome.RESET),
        (stream(failure=FailureKind.FIRST_BYTE_TIMEOUT), Outcome.TIMEOUT),
        (stream(ok(WHOLE, 5000), failure=FailureKind.BETWEEN_BYTES_TIMEOUT), Outcome.TIMEOUT),
        (stream(failure=FailureKind.CONNECT, message="[Errno 111] Connection refused"), Outcome.UNCONNECTED),
        (stream(failure=FailureKind.CONNECT_TIMEOUT), Outcome.UNCONNECTED),
        (stream(failure=FailureKind.CONNECT, message="[Errno 24] Too many open files"), Outcome.CLIENT),
    ],
)
def test_every_end_of_a_request_has_its_kind(given: Stream, outcome: Outcome) -> None:
    assert outcome_of(given) is outcome


@given(st.text(max_size=40))
def test_any_value_of_retry_after_is_judged(value: str) -> None:
    assert retry_after(value) in (True, False)


def after(*ttft_ms: float) -> list[tuple[float, float]]:
    return [(float(at_s), value) for at_s, value in enumerate(ttft_ms)]


def test_latency_is_back_at_the_first_window_whose_median_is_within_the_limit() -> None:
    assert back_at(after(*[500.0] * 20, *[10.0] * 30), 100) == 20 - WINDOW // 2
    assert back_at(after(*[10.0] * WINDOW), 100) == 0


def test_latency_that_is_good_for_a_moment_is_not_back() -> None:
    assert back_at(after(*[10.0] * WINDOW, *[500.0] * 60), 100) is None


def test_requests_that_are_refused_are_not_back() -> None:
    assert back_at(after(*[math.inf] * 40), 100) is None
    assert back_at(after(*[10.0] * (WINDOW - 1)), 100) is None, "too few"


@given(st.lists(st.floats(0, 1000), max_size=60), st.floats(1, 1000))
def test_where_latency_is_back_both_medians_are_within_the_limit(values: list[float], limit: float) -> None:
    at_s = back_at(after(*values), limit)
    if at_s is not None:
        rest = values[int(at_s) :]
        assert sorted(rest[:WINDOW])[WINDOW // 2] <= limit
        assert sorted(rest)[(len(rest) - 1) // 2] <= limit


@given(st.floats(0.1, 500), st.floats(0.05, 0.8), st.floats(1.2, 20), st.floats(1, 100))
def test_the_recovery_is_watched_longer_than_a_queue_needs(
    capacity: float, share: float, factor: float, duration: float
) -> None:
    plan = Plan.of(capacity, share * capacity, factor=factor, duration_s=duration)
    excess = (factor - 1) * capacity * duration
    assert plan.last_s - plan.end_s >= excess / (capacity * (1 - share))
    assert plan.end_s - plan.begin_s == pytest.approx(duration)


def test_requests_of_the_three_phases_are_due_in_order_and_at_their_rates() -> None:
    plan = Plan.of(100, 20, factor=3, duration_s=10)
    times = list(plan.times(Setting(workload=SMALL)))
    assert all(early <= late for early, late in itertools.pairwise(times))
    calm = sum(at_s < plan.begin_s for at_s in times)
    under = sum(plan.begin_s <= at_s < plan.end_s for at_s in times)
    assert 140 < calm < 270
    assert 2700 < under < 3300


def test_the_speed_of_answers_is_not_changed_by_a_few_long_ones() -> None:
    ends = [number * 0.1 for number in range(100)] + [50.0, 60.0]
    assert speed(ends, 100) == pytest.approx(10, rel=0.05)
    assert speed([1.0], 5) == 0
    assert speed([1.0] * 50, 5) == 5
