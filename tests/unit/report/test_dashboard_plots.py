"""The axes of the dashboard's plots: labels tell values apart."""

from __future__ import annotations

import re

import pytest

from vllm_ci.performance.history import Series
from vllm_ci.report.dashboard_plots import of_measurements

_LABEL = re.compile(r"<text[^>]*>([^<]+)</text>")


def labels(times: tuple[str, ...], values: tuple[float, ...]) -> list[str]:
    (plot,) = of_measurements([Series(metric="ttft_ms_p50", group={}, times=times, values=values, changes=())])
    return _LABEL.findall(str(plot.svg))


@pytest.mark.parametrize("values", [(2.3501, 2.3502), (5.0, 5.0), (0.0, 0.0), (1.0, 900.0), (12345.0, 12345.4)])
def test_no_two_labels_of_an_axis_are_the_same(values: tuple[float, ...]) -> None:
    found = labels(("2026-09-01T08:00:00", "2026-09-01T09:30:00"), values)
    assert len(found) >= (1 if values[1] == 0 else 4)
    assert len(found) == len(set(found)), found


@pytest.mark.parametrize(
    ("last", "form"), [("2026-09-01T09:30:00", r"09-01 0[89]:\d\d"), ("2026-12-01T09:30:00", r"(09|10|11)-\d\d")]
)
def test_the_time_axis_shows_minutes_where_days_would_not_differ(last: str, form: str) -> None:
    assert sum(bool(re.fullmatch(form, label)) for label in labels(("2026-09-01T08:00:00", last), (1.0, 2.0))) > 1
