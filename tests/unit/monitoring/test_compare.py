"""Comparisons of the time after a release with that before: what they find, and how often they are wrong."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.domain.report import Verdict
from vllm_ci.monitoring.around import Compared, Stretches, look
from vllm_ci.monitoring.compare import Finding, Window, compare, share, slope
from vllm_ci.monitoring.signals import BY_NAME, SIGNALS

BLOCK_S = 150.0


def window(values: list[float], part: list[float] | None = None, *, expected: int = 24) -> Window:
    times = [BLOCK_S * (index + 1) for index in range(len(values))]
    return Window(
        expected=expected,
        seconds=expected * BLOCK_S,
        values=dict(zip(times, values, strict=True)),
        part=dict(zip(times, part or [], strict=False)),
    )


def levels(noise: random.Random, mean: float, spread: float = 0.15) -> Window:
    return window([max(0.0, noise.gauss(mean, spread * mean)) for _ in range(24)])


def requests(noise: random.Random, share_: float, rate: int = 200) -> Window:
    return window([rate] * 24, [sum(noise.random() < share_ for _ in range(rate)) for _ in range(24)])


@pytest.mark.parametrize(("signal", "worse"), [("ttft", 0.4), ("tpot", 0.06), ("queue", 6.0), ("kv_use", 0.9)])
def test_a_level_that_doubled_or_tripled_is_worse_and_one_that_did_not_is_fine(signal: str, worse: float) -> None:
    noise = random.Random(1)
    before = {"ttft": 0.2, "tpot": 0.03, "queue": 1.0, "kv_use": 0.5}[signal]
    assert compare(BY_NAME[signal], levels(noise, before), levels(noise, worse)).state == "worse"
    assert compare(BY_NAME[signal], levels(noise, before), levels(noise, before)).state == "fine"


def test_a_level_that_became_better_is_fine() -> None:
    noise = random.Random(2)
    assert compare(BY_NAME["ttft"], levels(noise, 0.6), levels(noise, 0.2)).state == "fine"


@pytest.mark.parametrize("after", [60.0, 180.0])
def test_answers_that_became_shorter_or_longer_are_worse(after: float) -> None:
    noise = random.Random(3)
    assert compare(BY_NAME["answer_length"], levels(noise, 110.0, 0.05), levels(noise, after, 0.05)).state == "worse"


def test_a_fault_in_a_third_of_the_blocks_is_found() -> None:
    noise = random.Random(4)
    values = [0.2 * noise.gauss(1, 0.05) * (5 if index % 3 == 0 else 1) for index in range(24)]
    found = compare(BY_NAME["ttft"], levels(noise, 0.2, 0.05), window(values))
    assert found.state in ("worse", "undecided")


def test_one_wild_block_does_not_decide() -> None:
    noise = random.Random(5)
    values = [0.2 * noise.gauss(1, 0.05) for _ in range(23)] + [60.0]
    assert compare(BY_NAME["ttft"], levels(noise, 0.2, 0.05), window(values)).state == "fine"


def test_a_share_of_errors_that_rose_is_worse_and_its_interval_holds_the_truth() -> None:
    noise = random.Random(6)
    found = compare(BY_NAME["errors"], requests(noise, 0.001), requests(noise, 0.05))
    assert found.state == "worse"
    assert found.change
    assert found.change.low < 0.049 < found.change.high


def test_few_requests_without_an_error_are_undecided_and_many_are_fine() -> None:
    noise = random.Random(7)
    few = compare(BY_NAME["errors"], requests(noise, 0.0, rate=3), requests(noise, 0.0, rate=3))
    assert few.state == "undecided"
    assert compare(BY_NAME["errors"], requests(noise, 0.0), requests(noise, 0.0)).state == "fine"


def test_errors_in_bursts_make_a_wider_interval_than_the_same_number_spread_out() -> None:
    spread = share(window([200.0] * 24, [10.0] * 24))
    bursts = share(window([200.0] * 24, [120.0 if index % 12 == 0 else 0.0 for index in range(24)]))
    assert spread.value == bursts.value
    assert bursts.high - bursts.low > 2 * (spread.high - spread.low)


def test_memory_that_grows_is_worse_with_its_rate_and_noise_is_not() -> None:
    noise = random.Random(8)
    leak = window([2e9 * (1 + 0.2 * index / 24) + noise.gauss(0, 5e6) for index in range(24)])
    still = window([2e9 + noise.gauss(0, 5e6) for _ in range(24)])
    found = compare(BY_NAME["memory"], still, leak)
    assert found.state == "worse"
    assert found.change
    assert found.change.low < 0.2 / 1.1 < found.change.high
    assert compare(BY_NAME["memory"], still, still).state == "fine"


def test_memory_that_grew_before_the_release_too_is_not_blamed_on_it() -> None:
    leak = window([2e9 * (1 + 0.2 * index / 24) for index in range(24)])
    assert compare(BY_NAME["memory"], leak, leak).state == "undecided"


def test_the_slope_of_a_line_is_exact() -> None:
    found = slope(window([100.0 + index for index in range(25)], expected=25))
    assert found.low == found.value == found.high == pytest.approx(24 / 112)


@pytest.mark.parametrize(
    ("before", "after", "state"), [(0, 0, "fine"), (0, 1, "fine"), (0, 5, "worse"), (5, 5, "undecided"), (3, 2, "undecided")]
)
def test_restarts_are_counted_against_those_before(before: int, after: int, state: str) -> None:
    windows = [Window(expected=1, seconds=3600.0, values={3600.0: float(each)}, part={}) for each in (before, after)]
    assert compare(BY_NAME["restarts"], *windows).state == state


def test_a_wider_margin_tolerates_more() -> None:
    noise = random.Random(9)
    before, after = levels(noise, 0.2), levels(noise, 0.4)
    assert compare(BY_NAME["ttft"], before, after).state == "worse"
    assert compare(BY_NAME["ttft"], before, after, margin=2.0).state == "fine"


@pytest.mark.slow
@pytest.mark.parametrize("signal", [each.name for each in SIGNALS if each.kind != "events"])
@given(blocks=st.integers(0, 19), values=st.lists(st.floats(0, 1e9), min_size=24, max_size=24))
def test_too_little_data_after_a_release_is_never_fine(signal: str, blocks: int, values: list[float]) -> None:
    full = window(values, values)
    found = compare(BY_NAME[signal], full, window(values[:blocks], values[:blocks]))
    assert found.state == "missing"


@pytest.mark.slow
@pytest.mark.parametrize("signal", [each.name for each in SIGNALS])
@given(
    before=st.lists(st.floats(0, 1e12), min_size=24, max_size=24),
    after=st.lists(st.floats(0, 1e12), min_size=24, max_size=24),
)
def test_every_finding_has_an_interval_around_its_change(signal: str, before: list[float], after: list[float]) -> None:
    if BY_NAME[signal].kind == "events":
        return
    found = compare(BY_NAME[signal], window(before, before), window(after, after))
    assert found.change
    assert found.change.low <= found.change.value <= found.change.high


def wrong(signal: str, make: Callable[[random.Random], Window]) -> list[Finding]:
    """Findings of 300 comparisons of like with like."""
    return [compare(BY_NAME[signal], make(random.Random(seed)), make(random.Random(-seed - 1))) for seed in range(300)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signal", "make"),
    [
        ("ttft", lambda noise: levels(noise, 0.2, 0.3)),
        ("queue", lambda noise: window([noise.expovariate(1) for _ in range(24)])),
        ("errors", lambda noise: requests(noise, 0.02, rate=50)),
        ("memory", lambda noise: window([2e9 + noise.gauss(0, 4e7) for _ in range(24)])),
    ],
)
def test_like_is_called_worse_than_like_in_less_than_one_of_a_hundred(
    signal: str, make: Callable[[random.Random], Window]
) -> None:
    assert sum(each.state == "worse" for each in wrong(signal, make)) < 3


def asked(present: Callable[[str], bool]) -> Callable[..., dict[float, float]]:
    def ask(expr: str, *, start: float, end: float, step: float) -> dict[float, float]:
        count = round((end - start) / step) + 1
        return {start + index * step: 1.0 for index in range(count)} if present(expr) else {}

    return ask


STRETCHES = Stretches(released=100_000.0, settle_s=600.0, seconds=3600.0, now=200_000.0)


def test_a_server_without_any_metrics_is_inconclusive() -> None:
    assert look(asked(lambda _: False), {"channel": "c"}, STRETCHES, {}).verdict is Verdict.INCONCLUSIVE


def test_a_release_of_a_minute_ago_is_inconclusive() -> None:
    early = Stretches(released=100_000.0, settle_s=600.0, seconds=3600.0, now=100_060.0)
    compared = look(asked(lambda _: True), {"channel": "c"}, early, {})
    assert compared == Compared(stretches=early)
    assert compared.verdict is Verdict.INCONCLUSIVE


def test_the_time_before_does_not_reach_into_an_earlier_release() -> None:
    stretches = Stretches(released=100_000.0, settle_s=600.0, seconds=3600.0, now=200_000.0, since=98_500.0)
    assert stretches.before[0] >= 98_500.0
    assert stretches.before[1] == 100_000.0
