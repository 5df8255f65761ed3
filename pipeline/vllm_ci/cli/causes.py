"""Shows causes and skipped cases on the terminal: what is wrong fits on one screen, the rest is counted."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.text import Text

from vllm_ci.domain.causes import Cause, SkipReason
from vllm_ci.domain.plain import one_line
from vllm_ci.domain.report import CaseStatus

_MARKS = {
    CaseStatus.FAILED: ("✗", "bold red"),
    CaseStatus.ERRORED: ("!", "bold yellow"),
    CaseStatus.INCONCLUSIVE: ("?", "magenta"),
}
# Lines kept for the first cause (a case, rule, request and response) before more causes are listed.
_FIRST = 4
_NAMES = 3
_SKIPS = 3
_LONGEST = 300


@dataclass(frozen=True, kw_only=True)
class _Detail:
    """How much of a cause is shown: lines of its title, names of its cases, and whether rule, request and response."""

    title: int
    names: int
    evidence: bool


# From the most to the least; the first one for which there is room is taken.
_DETAILS = (
    _Detail(title=3, names=_NAMES, evidence=True),
    _Detail(title=3, names=1, evidence=True),
    _Detail(title=3, names=0, evidence=True),
    _Detail(title=1, names=1, evidence=True),
    _Detail(title=1, names=_NAMES, evidence=False),
    _Detail(title=1, names=1, evidence=False),
)


def cause_lines(causes: Sequence[Cause], *, rows: int, width: int) -> list[Text]:
    """One line for each cause, and names of cases, rule, request and response below it as far as there is room.

    Args:
        causes: In the order of their importance.
        rows: Most lines.
        width: Columns that a line can have; 0 for no limit.
    """
    most = rows - min(_FIRST, (rows - 1) // 2)
    shown = causes if len(causes) <= most else causes[: max(most - 1, 1)]
    room = rows - len(shown) - (len(shown) < len(causes))
    lines = []
    for cause in shown:
        made = (_title(cause, detail.title, width) + _below(cause, detail, width) for detail in _DETAILS)
        found = next((each for each in made if len(each) - 1 <= room), _title(cause, 1, width))
        room -= len(found) - 1
        lines += found
    rest = causes[len(shown) :]
    if rest:
        lines.append(_cut(Text(f"  and {len(rest)} more causes of {_cases(_affected(rest))}", style="dim"), width))
    return lines


def skip_lines(skips: Sequence[SkipReason], *, width: int, most: int = _SKIPS) -> list[Text]:
    """One line for each of the most frequent reasons, and one for the rest."""
    shown = skips if len(skips) <= most + 1 else skips[:most]
    lines = [
        _cut(Text(f"{'skipped' if not at else '':<9}", style="dim").append(f"{_cases(skip.count):>9}: {skip.reason}"), width)
        for at, skip in enumerate(shown)
    ]
    rest = skips[len(shown) :]
    if rest:
        text = f"{'':<9}{_cases(sum(skip.count for skip in rest)):>9} for {len(rest)} other reasons"
        lines.append(_cut(Text(text, style="dim"), width))
    return lines


def _title(cause: Cause, most: int, width: int) -> list[Text]:
    """Mark, severity, title and number of cases in at most that many lines; the title is cut off where they are too few."""
    how = "" if cause.status is CaseStatus.FAILED else f" {cause.status.value}"
    count = f" ({_cases(_affected([cause]))}{how})" if any(case.name for case in cause.cases) else ""
    severity = f"[{cause.severity}] " if cause.severity and not cause.title.startswith("[") else ""
    mark, style = _MARKS[cause.status]
    pieces = textwrap.wrap(f"{severity}{cause.title}", width - 2) if width else [f"{severity}{cause.title}"]
    last = " ".join(pieces[most - 1 :])
    lines = [*pieces[: most - 1], *([last] if last else [])]
    made = [Text(f"{mark} " if not at else "  ", style=style).append(line, style="bold") for at, line in enumerate(lines)]
    _cut(made[-1], max(width - len(count), 20) if width else 0).append(count, style="dim")
    return [*(_cut(line, width) for line in made[:-1]), made[-1]]


def _below(cause: Cause, detail: _Detail, width: int) -> list[Text]:
    labels = [case.label for case in cause.cases] if detail.names else []
    more = len(labels) - detail.names
    lines: list[Text] = []
    if labels and min(detail.names, len(labels)) == 1:
        lines = [Text(f"    {labels[0]}").append(f" and {more} more" if more > 0 else "", style="dim")]
    elif labels:
        lines = [Text(f"    {label}") for label in labels[: detail.names]]
        lines += [Text(f"    and {more} more", style="dim")] if more > 0 else []
    parts = {"rule": cause.rule, "request": cause.request, "response": cause.response} if detail.evidence else {}
    shown = [(name, one_line(text, _LONGEST)) for name, text in parts.items() if text]
    lines += [Text(f"    {name:<9} ", style="dim").append(text, style="not dim") for name, text in shown]
    return [_cut(line, width) for line in lines]


def _affected(causes: Iterable[Cause]) -> int:
    return len({(case.stage, case.name) for cause in causes for case in cause.cases if case.name})


def _cases(count: int) -> str:
    return f"{count} case{'' if count == 1 else 's'}"


def _cut(line: Text, width: int) -> Text:
    if width:
        line.truncate(width, overflow="ellipsis")
    return line
