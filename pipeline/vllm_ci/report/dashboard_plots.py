"""Plots of the dashboard: figures over runs and measurements, and the moves of channels on a timeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from vllm_ci.performance.history import Change, Series
from vllm_ci.release.record import Record
from vllm_ci.report.dashboard import Dashboard, Run
from vllm_ci.report.document import LARGEST
from vllm_ci.report.html import bytes_, seconds
from vllm_ci.report.plots import Plot, options, svg

_FEWEST = 2
_MOST_POINTS = 400
_MOST_DOTS = 120
# Least height of a plot, in shares of its values: labels of three digits differ, and noise does not look like a change.
_LEAST_RANGE = 0.08
_SHORT_S = 2 * 86400
_TITLES = {
    "image_bytes": "Size of the image",
    "ttft_ms_p50": "Time to first token, median of the streaming stage",
    "tpot_ms_p50": "Time per output token, median of the streaming stage",
    "e2e_ms_p50": "Time of a whole answer, median of the streaming stage",
}
_UNITS = {"image_bytes": bytes_}


def of_runs(runs: Sequence[Run]) -> Iterator[Plot]:
    """One plot for each figure that at least two runs have, oldest run first."""
    oldest = list(reversed(runs))
    times = [(run.started_at, run.seconds) for run in oldest if run.seconds > 0]
    yield from _trend("Time of a run", times)
    for name, title in _TITLES.items():
        yield from _trend(title, [(run.started_at, run.figures[name]) for run in oldest if name in run.figures], name)


def of_measurements(series: Sequence[Series]) -> Iterator[Plot]:
    """One plot for each metric of each group of measurements; change points are said in the caption and marked."""
    for each in series:
        group = ", ".join(f"{name} {value}" for name, value in each.group.items() if value)
        changes = [_changed(each.metric, change) for change in each.changes]
        points = list(zip(each.times, each.values, strict=True))
        for plot in _trend(each.metric, points, each.metric, marked=[change.at for change in each.changes]):
            caption = "; ".join([plot.caption, *changes, group])
            yield Plot(title=plot.title, caption=caption, svg=plot.svg)


def _changed(metric: str, change: Change) -> str:
    at = change.at[:16].replace("T", " ")
    return f"changed at {at}: {_figure(metric, change.before)} to {_figure(metric, change.after)}"


def timeline(board: Dashboard) -> Plot | None:
    """The moves of the channels over time; ``None`` without any."""
    import pygal

    moves = [record for record in reversed(board.records) if record.action in {"publish", "promote", "rollback"}]
    channels = list(dict.fromkeys(record.channel for record in moves))
    if not channels:
        return None
    wide = {**options(), "width": 1100, "height": 70 + 34 * len(channels)}
    chart = pygal.XY(**wide, stroke=False, dots_size=5, x_value_formatter=_day, range=(0, len(channels) + 1))
    chart.y_labels = [{"value": at, "label": name[:20]} for at, name in enumerate(channels, 1)]
    for actions in (("publish", "promote"), ("rollback",)):
        chart.add(actions[0], [(_when(each.at), channels.index(each.channel) + 1) for each in moves if each.action in actions])
    back = sum(each.action == "rollback" for each in moves)
    rolled = f", {back} rollback{'' if back == 1 else 's'} (red)" if back else ""
    many = f"{len(moves)} move{'' if len(moves) == 1 else 's'}"
    caption = f"{many} of {len(channels)} channel{'' if len(channels) == 1 else 's'}{rolled}"
    return Plot(title="Moves of the channels", caption=caption, svg=svg(chart))


def move_kind(record: Record) -> str:
    """The class of a record's row: as a verdict."""
    return {"rollback": "failed", "promote": "passed", "publish": "passed"}.get(record.action, "skipped")


def _trend(title: str, points: list[tuple[str, float]], name: str = "", *, marked: Sequence[str] = ()) -> Iterator[Plot]:
    import pygal

    points = [(at, value) for at, value in points if abs(value) <= LARGEST]  # a chart of more than that cannot be drawn
    if len(points) < _FEWEST:
        return
    every = max(len(points) // _MOST_POINTS, 1)
    values, times = [value for _, value in points], [_when(at) for at, _ in points]
    chart = pygal.XY(
        **options(),
        range=_range(values),
        dots_size=1.6 if len(points) > 40 else 3,
        show_dots=len(points) <= _MOST_DOTS,
        x_value_formatter=_minute if max(times) - min(times) < _SHORT_S else _day,
        value_formatter=lambda value: _figure(name, value),
        truncate_legend=-1,
    )
    chart.add("values", list(zip(times, values, strict=True))[::every])
    chart.add("changes", [(_when(at), value) for at, value in points if at in set(marked)])
    last, low, high = (_figure(name, value) for value in (values[-1], min(values), max(values)))
    yield Plot(title=title, caption=f"{len(values)} values, last {last}, from {low} to {high}", svg=svg(chart))


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    missing = max(_LEAST_RANGE * abs(high) - (high - low), 0.0) / 2
    return low - missing, high + missing


def _figure(name: str, value: float) -> str:
    if not name:
        return seconds(value)
    if name in _UNITS:
        return _UNITS[name](int(value))
    unit = " ms" if "_ms" in name else "/s" if name.endswith("_per_s") else ""
    return f"{value:.3g}{unit}"


def _when(at: str) -> float:
    """Seconds since the epoch; 0 for a time that cannot be read."""
    try:
        found = datetime.fromisoformat(at)
    except ValueError:
        return 0.0
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _day(at: float) -> str:
    return datetime.fromtimestamp(max(at, 0.0), UTC).strftime("%m-%d")


def _minute(at: float) -> str:
    return datetime.fromtimestamp(max(at, 0.0), UTC).strftime("%m-%d %H:%M")
