import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.loadgen.metrics import Distribution, Method, measure, percentile

MS = 1_000_000


def test_the_formulas_by_hand() -> None:
    metrics = measure(
        sent_ns=10 * MS,
        token_chunks_ns=[15 * MS, 17 * MS, 25 * MS],
        last_event_ns=30 * MS,
        output_tokens=6,
        prompt_tokens=4,
        choices=1,
    )
    assert metrics.ttft_ms == 5
    assert metrics.tpot_ms == 10 / 5
    assert metrics.inter_chunk_latency_ms == (2, 8)
    assert metrics.e2e_ms == 20
    assert metrics.output_tokens_per_s == 6 / 0.020
    assert (metrics.chunks, metrics.output_tokens, metrics.prompt_tokens) == (3, 6, 4)


@pytest.mark.parametrize(("tokens", "choices"), [(None, 1), (1, 1), (0, 1), (6, 2)])
def test_time_per_output_token_is_unknown_where_the_tokens_do_not_tell(tokens: int | None, choices: int) -> None:
    metrics = measure(
        sent_ns=0, token_chunks_ns=[MS, 2 * MS], last_event_ns=3 * MS, output_tokens=tokens, prompt_tokens=1, choices=choices
    )
    assert metrics.tpot_ms is None


def test_time_per_output_token_is_unknown_when_all_came_at_once() -> None:
    metrics = measure(sent_ns=0, token_chunks_ns=[MS], last_event_ns=MS, output_tokens=9, prompt_tokens=1, choices=1)
    assert metrics.tpot_ms is None


def test_a_stream_without_tokens_has_no_latencies() -> None:
    metrics = measure(sent_ns=0, token_chunks_ns=[], last_event_ns=None, output_tokens=None, prompt_tokens=None, choices=0)
    assert (metrics.ttft_ms, metrics.e2e_ms, metrics.output_tokens_per_s, metrics.chunks) == (None, None, None, 0)
    assert metrics.properties() == {"chunks": 0}


def test_properties_name_the_method_of_their_percentiles() -> None:
    metrics = measure(
        sent_ns=0,
        token_chunks_ns=[MS, 2 * MS, 4 * MS],
        last_event_ns=4 * MS,
        output_tokens=3,
        prompt_tokens=1,
        choices=1,
    )
    properties = metrics.properties()
    assert properties["inter_chunk_latency_ms_p50"] == 1.5
    assert properties["percentiles"] == "linear"
    assert "prompt_tokens" not in properties


@pytest.mark.slow
@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=2, max_size=50))
def test_linear_is_the_inclusive_method_of_the_standard_library(values: list[float]) -> None:
    assert percentile(values, 90) == pytest.approx(statistics.quantiles(values, n=10, method="inclusive")[8], abs=1e-6)


@pytest.mark.parametrize(("percent", "expected"), [(0, 15), (30, 20), (40, 20), (50, 35), (100, 50)])
def test_inverted_cdf_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([15, 20, 35, 40, 50], percent, method=Method.INVERTED_CDF) == expected


def test_a_percentile_of_nothing_or_beyond_the_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="no percentile"):
        percentile([], 50)
    with pytest.raises(ValueError, match="no percentile"):
        percentile([1], 101)


def test_a_distribution_keeps_what_matters() -> None:
    found = Distribution.of(range(1, 102))
    assert (found.count, found.mean, found.minimum, found.p50, found.p90, found.p99, found.maximum) == (
        101,
        51,
        1,
        51,
        91,
        100,
        101,
    )
