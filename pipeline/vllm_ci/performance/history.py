"""Stored results over time, and where they changed: change points by Apache Otava (the extra ``history``).

Only results of the same hardware, model and load are compared: each such group has series of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.plain_json import is_number

LEAST = 10
"""Results from which change points are searched."""
LARGEST = 16 << 20
_WINDOW = 30
_MOST_P = 0.001
_NEEDED = {"measurement": ("figures",), "overload": ("overload",), "sweep": ()}
"""Kinds of results, and the objects in them that hold their figures."""
_LOAD = ("workload", "loop", "rate_per_s", "concurrency", "pattern", "burstiness", "length_scale", "real_history")
_LOAD_OF_LIMITS = ("overload_factor", "good_share", "objective")


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change point.

    Attributes:
        at: End time of the first result after the change.
        before: Mean before, back to the change before it.
        after: Mean after, up to the next change.
        p: Probability of such a difference without a change.
    """

    at: str
    before: float
    after: float
    p: float


@dataclass(frozen=True, kw_only=True)
class Series:
    """One metric of one group.

    Attributes:
        group: Hardware, model and load.
        metric: Its name.
        times: End times of the results.
        values: Its values.
        changes: Where it changed.
    """

    group: Mapping[str, str]
    metric: str
    times: tuple[str, ...]
    values: tuple[float, ...]
    changes: tuple[Change, ...]


def read(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The measurements, overloads and sweeps in a folder that ``passed``, by time, and why other files were left out.

    Args:
        folder: With JSON documents of ``vllm-ci bench --report-dir``.

    Raises:
        UsageError: It is no folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", remedy="name a folder that --report-dir wrote to")
    found, left_out = [], []
    for file in sorted(folder.glob("*.json")):
        document = _document(file)
        if isinstance(document, str):
            left_out.append(f"{file.name}: {document}")
        else:
            found.append(document)
    return sorted(found, key=lambda document: str(document["ended"])), left_out


def _document(file: Path) -> dict[str, Any] | str:
    """A measurement, or why it is none."""
    try:
        if file.stat().st_size > LARGEST:
            return f"larger than {LARGEST >> 20} MiB"
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return f"cannot be read: {str(error)[:100]}"
    if not isinstance(found, dict) or (kind := str(found.get("kind"))) not in _NEEDED:
        return f"no {', '.join(_NEEDED)}"
    lacking = [name for name in ("setting", *_NEEDED[kind]) if not isinstance(found.get(name), dict)]
    if lacking or not isinstance(found.get("ended"), str):
        return f"{kind} without {', '.join(lacking or ['its time'])}"
    return found if found.get("verdict") == "passed" else f"verdict {str(found.get('verdict'))[:20]}"


def metrics(document: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and values of the metrics of one result."""
    return ((name, value) for name, value in _METRICS[document["kind"]](document) if _positive(value))


def _of_measurement(document: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    figures = document["figures"]
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
        yield from _percentiles(name, figures.get(name))
    for name in ("output_tokens_per_s", "requests_per_s"):
        yield name, figures.get(name)


def _of_overload(document: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for name in ("capacity_per_s", "drained_after_s", "latency_back_after_s"):
        yield name, document.get(name)
    phase = document["overload"]
    for name in ("served_per_s", "goodput_per_s"):
        yield f"overload_{name}", phase.get(name)
    yield from _percentiles("overload_ttft_ms", phase.get("ttft_ms"))


def _of_sweep(document: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "capacity_per_s", document.get("capacity_per_s")


_METRICS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[tuple[str, object]]]] = {
    "measurement": _of_measurement,
    "overload": _of_overload,
    "sweep": _of_sweep,
}


def _percentiles(name: str, spread: object) -> Iterator[tuple[str, object]]:
    percentiles = spread.get("percentiles") if isinstance(spread, dict) else None
    for percent in ("50.0", "90.0", "99.0"):
        if isinstance(percentiles, dict):
            yield f"{name}_p{float(percent):g}", percentiles.get(percent)


def _positive(value: object) -> TypeGuard[float]:
    return is_number(value) and value > 0


def group_of(document: Mapping[str, Any]) -> dict[str, str]:
    """What results must have in common to be compared."""
    setting, kind = document["setting"], document["kind"]
    names = _LOAD if kind == "measurement" else (*_LOAD, *_LOAD_OF_LIMITS)
    load = {name: str(setting[name]) for name in names if name in setting}
    facts = {"hardware": str(document.get("hardware", "unknown")), "model": str(document.get("model", ""))}
    return {**facts, **({} if kind == "measurement" else {"kind": kind}), **load}


def series(documents: Sequence[Mapping[str, Any]], *, searched: bool = True) -> list[Series]:
    """All series of the documents, in the order of their groups, with their changes if these are to be ``searched``.

    Raises:
        UsageError: A series is long enough for change points, and Apache Otava is not installed.
    """
    found: dict[tuple[tuple[tuple[str, str], ...], str], list[tuple[str, float]]] = {}
    for document in documents:
        group = tuple(group_of(document).items())
        for metric, value in metrics(document):
            found.setdefault((group, metric), []).append((document["ended"], value))
    return [
        Series(
            group=dict(group),
            metric=metric,
            times=tuple(at for at, _ in points),
            values=tuple(value for _, value in points),
            changes=tuple(changes(points)) if searched and len(points) >= LEAST else (),
        )
        for (group, metric), points in found.items()
    ]


def changes(points: Sequence[tuple[str, float]]) -> Iterator[Change]:
    """Change points of a series.

    Args:
        points: Time and value, in order.

    Raises:
        UsageError: Apache Otava is not installed.
    """
    try:
        from otava.analysis import compute_change_points
    except ImportError as error:
        raise UsageError(
            "change points need Apache Otava, which is not installed", remedy="pip install 'vllm-ci[history]'"
        ) from error
    found, _ = compute_change_points([value for _, value in points], window_len=_WINDOW, max_pvalue=_MOST_P)
    for point in found:
        yield Change(
            at=points[point.index][0],
            before=float(point.stats.mean_1),
            after=float(point.stats.mean_2),
            p=float(point.stats.pvalue),
        )
