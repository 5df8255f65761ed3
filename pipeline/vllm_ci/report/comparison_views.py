"""A comparison of runs as plain data, Markdown and lines of a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from vllm_ci.domain.plain import one_line
from vllm_ci.report.comparison import Change, ChangedCase, Comparison
from vllm_ci.report.html import bytes_
from vllm_ci.report.markdown import code
from vllm_ci.report.sentences import sentence

FORMAT = "vllm-ci/comparison/v1"
_MOST = 20
_LABELS = {"ttft_ms": "time to first token", "tpot_ms": "time per output token", "e2e_ms": "time of a whole answer"}
_TITLES = {
    Change.NEW: "New failures",
    Change.FLAKY: "Flaky",
    Change.GONE: "No longer in the report",
    Change.SKIPPED: "No longer run",
    Change.UNDECIDED: "Without a clear result",
    Change.STILL: "Still failing",
    Change.FIXED: "Fixed",
}


def to_json(found: Comparison, older: str, newer: str) -> dict[str, Any]:
    """The output of ``vllm-ci report compare --json``."""
    return {
        "format": FORMAT,
        "verdict": found.verdict.value,
        "older": older,
        "newer": newer,
        **{change.name.lower(): [_case(case) for case in found.of(change)] for change in Change},
        "same": found.same,
        "added": found.added,
        "speed": [{**asdict(each), "runs": list(each.runs)} for each in found.speed],
        "image": {"size_bytes": list(found.size_bytes), "changed_layers": list(found.layers)},
        "stages": {
            "only_older": list(found.only_older),
            "only_newer": list(found.only_newer),
            "only_newer_bad": list(found.only_newer_bad),
        },
        "notes": list(found.notes),
    }


def markdown(found: Comparison, older: str, newer: str) -> str:
    """For a comment on a pull request or the summary of a job."""
    lines = [f"### {headline(found)}", "", f"{code(newer)} against {code(older)}"]
    for title, cases in _groups(found):
        lines += ["", f"**{title}** ({len(cases)})", ""]
        lines += [f"- {_named(case, code)}" for case in cases[:_MOST]]
        lines += [f"- and {len(cases) - _MOST} more"] if len(cases) > _MOST else []
    facts = [*_facts(found, code)]
    return "\n".join([*lines, *(["", *(f"- {fact}" for fact in facts)] if facts else [])]) + "\n"


def text(found: Comparison, older: str, newer: str) -> str:
    """For a terminal."""
    lines = [f"{_plain(newer)} against {_plain(older)}"]
    for title, cases in _groups(found):
        lines += ["", f"{title} ({len(cases)})"]
        lines += [f"  {_named(case, _plain)}" for case in cases[:_MOST]]
        lines += [f"  and {len(cases) - _MOST} more"] if len(cases) > _MOST else []
    return "\n".join([*lines, "", *_facts(found, _plain), f"verdict  {found.verdict.value}: {headline(found)}"])


def _plain(said: str) -> str:
    return one_line(said, 200)


def headline(found: Comparison) -> str:
    """The result in one line."""
    counts = {change: len(found.of(change)) for change in _TITLES}
    named = {Change.NEW: "new", Change.FLAKY: "flaky", Change.STILL: "still failing", Change.FIXED: "fixed"}
    parts = [f"{counts[change]} {name}" for change, name in named.items() if counts[change]]
    gone = counts[Change.GONE] + counts[Change.SKIPPED]
    parts += [f"{gone} no longer run"] if gone else []
    parts += [f"{counts[Change.UNDECIDED]} without a clear result"] if counts[Change.UNDECIDED] else []
    parts += [each.decision for each in found.speed if each.decision == "slower"][:1]
    stages = len(found.only_older)
    if not (found.cases or found.same or found.added or found.only_newer_bad):
        return "there is nothing to compare"
    parts += [f"{stages} stage{'' if stages == 1 else 's'} no longer run"] if stages else []
    bad = len(found.only_newer_bad)
    parts += [f"{bad} stage{'' if bad == 1 else 's'} without an older result did not pass"] if bad else []
    if not parts:
        return "no difference in the cases"
    return ", ".join(parts)


def _groups(found: Comparison) -> Iterator[tuple[str, tuple[ChangedCase, ...]]]:
    for change, title in _TITLES.items():
        if cases := found.of(change):
            yield title, cases


def _named(case: ChangedCase, shown: Callable[[str], str]) -> str:
    said = sentence(case.name) if case.name else None
    name = f"{said.text} [{said.parameters}]" if said and said.parameters else said.text if said else "the whole stage"
    times = f", {case.failed[0]} of {case.runs[0]} and {case.failed[1]} of {case.runs[1]} runs" if max(case.runs) > 1 else ""
    message = f": {shown(case.message)}" if case.message else ""
    return f"{shown(f'{case.stage}: {name}')}{times}{message}"


def _facts(found: Comparison, shown: Callable[[str], str]) -> Iterator[str]:
    for each in found.speed:
        spread = f" ({each.low:+.1%} to {each.high:+.1%} between single runs)" if max(each.runs) > 1 else " (one pair of runs)"
        yield f"{_LABELS[each.metric]}: {each.change:+.1%}{spread}, {each.cases} cases: {each.decision}"
    if any(each.decision.startswith("maybe") for each in found.speed):
        yield "so few runs cannot show a difference in speed; vllm-ci bench can"
    older, newer = found.size_bytes
    if older is not None and newer is not None:
        more = "" if not older else f" ({(newer - older) / older:+.1%})"
        changed = ", ".join(map(shown, found.layers)) or "none"
        yield f"image: {bytes_(older)} before, {bytes_(newer)} now{more}; changed layers: {changed}"
    for name, stages, bad in (("older", found.only_older, ()), ("newer", found.only_newer, found.only_newer_bad)):
        said = [shown(each) + (" (did not pass)" if each in bad else "") for each in stages]
        if said:
            yield f"only the {name} runs have: {', '.join(said)}"
    yield from found.notes
    yield f"{found.same} cases as before, {found.added} added"


def _case(case: ChangedCase) -> dict[str, Any]:
    return {
        "stage": case.stage,
        "case": case.name,
        "message": case.message,
        "failed": list(case.failed),
        "runs": list(case.runs),
    }
