"""Four outcomes, and none of them is success without data."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.deploy.analysis import Analysis, Measurement, Outcome, judge, total
from vllm_ci.deploy.condition import parse
from vllm_ci.deploy.target import Sample

ERRORS = Analysis(conditions=(parse("errors <= 1%"),), min_requests=20)
BOTH = Analysis(conditions=(parse("errors <= 1%"), parse("ttft_ms.p95 <= 1.2 * baseline")), min_requests=20)


def sample(requests: int = 100, errors: int = 0, ttft_ms: float | None = 50.0, **values: float) -> Sample:
    return Sample(
        requests=requests,
        errors=errors,
        ttft_ms={} if ttft_ms is None else {"0.95": ttft_ms},
        latencies_ms={} if ttft_ms is None else {"0.95": 10 * ttft_ms},
        values=values,
    )


def seen(new: Sample | None, baseline: Sample | None = None) -> Measurement:
    return Measurement(sample=new, baseline=baseline)


def outcome(analysis: Analysis, *measurements: Measurement, ended: bool = True) -> Outcome | None:
    return judge(analysis, measurements, ended=ended).outcome


def test_conditions_that_hold_are_success_at_the_end_and_not_earlier() -> None:
    good = seen(sample(), sample())
    assert outcome(BOTH, good, good) is Outcome.SUCCESSFUL
    assert outcome(BOTH, good, good, ended=False) is None


def test_a_failing_measurement_ends_the_step_early_and_says_what_was_found() -> None:
    found = judge(ERRORS, [seen(sample()), seen(sample(errors=20))], ended=False)
    assert found.outcome is Outcome.FAILED
    assert found.reasons == ("errors 20 %, limit <= 1 %",)


def test_the_baseline_is_the_old_revision_in_the_same_window() -> None:
    assert outcome(BOTH, seen(sample(ttft_ms=119), sample(ttft_ms=100))) is Outcome.SUCCESSFUL
    assert outcome(BOTH, seen(sample(ttft_ms=121), sample(ttft_ms=100))) is Outcome.FAILED
    assert outcome(BOTH, seen(sample(ttft_ms=300), sample(ttft_ms=300))) is Outcome.SUCCESSFUL


@pytest.mark.parametrize(
    "measurement",
    [
        seen(None),
        seen(Sample()),
        seen(sample(requests=19), sample()),
        seen(sample(), None),
        seen(sample(), Sample()),
        seen(sample(ttft_ms=None), sample()),
        seen(sample(ttft_ms=math.nan), sample()),
        seen(sample(ttft_ms=math.inf), sample()),
        seen(sample(), sample(ttft_ms=math.nan)),
        seen(sample(), sample(ttft_ms=math.inf)),
    ],
    ids=[
        "nothing",
        "no requests",
        "few requests",
        "no baseline",
        "baseline without requests",
        "no quantile",
        "nan",
        "infinite",
        "nan baseline",
        "infinite baseline",
    ],
)
def test_without_data_a_person_decides(measurement: Measurement) -> None:
    found = judge(BOTH, [measurement], ended=True)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.reasons


def test_no_measurements_and_no_conditions_are_inconclusive() -> None:
    assert outcome(ERRORS) is Outcome.INCONCLUSIVE
    assert outcome(Analysis(), seen(sample())) is Outcome.INCONCLUSIVE


def test_few_requests_add_up_over_measurements() -> None:
    assert outcome(ERRORS, *[seen(sample(requests=5))] * 4) is Outcome.SUCCESSFUL
    assert outcome(ERRORS, *[seen(sample(requests=5, errors=1))] * 4, ended=False) is Outcome.FAILED


def test_the_last_requests_of_a_step_count_although_they_are_few() -> None:
    good, last = seen(sample()), seen(sample(requests=15, errors=15))
    assert outcome(ERRORS, good, last, ended=False) is None
    assert outcome(ERRORS, good, last) is Outcome.FAILED
    twice = Analysis(conditions=ERRORS.conditions, failures=2)
    assert outcome(twice, good, last) is Outcome.INCONCLUSIVE
    queue = Analysis(conditions=(parse("queue < 10"),))
    assert outcome(queue, seen(sample(queue=1.0)), seen(Sample(values={"queue": 99.0}))) is Outcome.FAILED


def test_only_consecutive_failures_count() -> None:
    twice = Analysis(conditions=ERRORS.conditions, failures=2)
    bad, good = seen(sample(errors=50)), seen(sample())
    assert outcome(twice, bad, good, bad, ended=False) is None
    assert outcome(twice, bad, good, bad, bad, ended=False) is Outcome.FAILED
    assert outcome(twice, bad, good) is Outcome.SUCCESSFUL
    assert outcome(twice, good, bad) is Outcome.INCONCLUSIVE  # the last word was a failure


def test_a_target_that_cannot_be_asked_is_an_error_after_its_own_limit() -> None:
    broken = Measurement(error="the gateway cannot be reached")
    assert outcome(ERRORS, *[broken] * 3, ended=False) is None
    assert outcome(ERRORS, *[broken] * 4, ended=False) is Outcome.ERROR
    assert outcome(ERRORS, *[broken] * 3, seen(sample()), broken, ended=False) is None
    assert outcome(ERRORS, seen(sample()), broken, ended=True) is Outcome.ERROR
    assert outcome(ERRORS, broken, seen(sample()), ended=True) is Outcome.SUCCESSFUL


numbers = st.floats(allow_nan=True, allow_infinity=True)
samples = st.builds(
    Sample,
    requests=st.integers(0, 200),
    errors=st.integers(0, 200),
    ttft_ms=st.dictionaries(st.sampled_from(["0.5", "0.95"]), numbers),
    values=st.dictionaries(st.sampled_from(["queue"]), numbers),
)
measurements = st.lists(
    st.builds(Measurement, sample=st.none() | samples, baseline=st.none() | samples, error=st.sampled_from(["", "", "broken"])),
    max_size=6,
)
conditions = st.lists(
    st.sampled_from(["errors <= 1%", "ttft_ms.p95 <= 1.2 * baseline", "queue < 10", "queue >= baseline", "errors > 0"]),
    max_size=3,
).map(lambda texts: tuple(parse(each) for each in texts))


@pytest.mark.slow
@given(conditions, measurements, st.booleans(), st.integers(0, 50), st.integers(1, 3))
def test_whatever_is_measured_success_needs_data_for_every_condition(
    required: tuple[object, ...], measured: list[Measurement], ended: bool, least: int, failures: int
) -> None:
    analysis = Analysis(conditions=required, min_requests=least, failures=failures)  # type: ignore[arg-type]
    found = judge(analysis, measured, ended=ended)
    assert (found.outcome is None) <= (not ended)
    if found.outcome is Outcome.SUCCESSFUL:
        answered = sum(each.sample.requests for each in measured if each.sample and not each.error)
        assert answered >= max(least, 1)
        assert len(found.reasons) == len(required) > 0
        assert not any(word in " ".join(found.reasons) for word in ("nan", "inf"))


def test_opposite_infinities_are_no_data_and_no_crash() -> None:
    windows = [seen(sample(requests=10, ttft_ms=math.inf), sample()), seen(sample(requests=10, ttft_ms=-math.inf), sample())]
    assert outcome(BOTH, *windows) is Outcome.INCONCLUSIVE


@pytest.mark.slow
@given(conditions, measurements, st.integers(1, 3))
def test_a_verdict_of_failure_does_not_change_when_the_time_is_over(
    required: tuple[object, ...], measured: list[Measurement], failures: int
) -> None:
    analysis = Analysis(conditions=required, min_requests=10, failures=failures)  # type: ignore[arg-type]
    early = judge(analysis, measured, ended=False).outcome
    if early is Outcome.FAILED:
        assert judge(analysis, measured, ended=True).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("text", "factor", "summand"),
    [
        ("errors <= 1%", 0, 0.01),
        ("errors<=0.5 %", 0, 0.005),
        ("ttft_ms.p95 <= 1.2 * baseline", 1.2, 0),
        ("latency_ms.p99 < baseline", 1, 0),
        ("errors <= baseline + 0.5%", 1, 0.005),
        ("vllm:num_requests_waiting <= 2*baseline + 10", 2, 10),
        ("memory_bytes < 20000000000", 0, 2e10),
    ],
)
def test_conditions_are_read(text: str, factor: float, summand: float) -> None:
    found = parse(text)
    assert found.factor == pytest.approx(factor)
    assert found.summand == pytest.approx(summand)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "errors",
        "errors <= ",
        "errors == 1",
        "errors <= nan",
        "ttft_ms <= 5",
        "ttft_ms.p42 <= 5",
        "errors <= -1",
        "1 < errors",
    ],
)
def test_what_is_no_condition_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"write e\.g\.|name a quantile"):
        parse(text)


def test_windows_are_put_together_by_their_requests() -> None:
    both = total([sample(requests=30, ttft_ms=10, queue=1), sample(requests=10, ttft_ms=50, queue=2)])
    assert (both.requests, both.values["queue"]) == (40, 2)
    assert both.ttft_ms["0.95"] == pytest.approx(20)
