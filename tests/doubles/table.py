"""The table of defects and the cases that name them, for ``docs/defects.md``.

``PYTHONPATH=pipeline:tests python -m doubles.table`` runs every defect and writes the table and ``consequences.json`` (which
cases fail beside those that name a defect, because it shows there as well). With ``--document`` it runs nothing and writes the
table from what was seen before.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from doubles import grpc_defects, grpc_legal, suiterun
from doubles.defects import DEFECTS
from doubles.legal import VARIATIONS, described

CONSEQUENCES = Path(__file__).parent / "consequences.json"
DOCUMENT = Path(__file__).parents[2] / "docs" / "defects.md"
SUITES = ("integration", "streaming", "security")

_HEAD = """\
# Defects and the cases that name them

The cases are tested with test doubles: servers with one defect each. For every defect below, the cases in the second column
must fail. The same cases pass with the correct double, with the legal variations at the end, and with the real vLLM. The
doubles are in `tests/doubles`; this table is generated (`python -m doubles.table`), and a test checks that it is up to date.

A double marks every response with the header `x-vllm-ci-double`; a report about it is marked too, and cannot be used for a
release.
"""


def consequences() -> dict[str, list[str]]:
    """Cases that fail beside those that name a defect, by defect, as they were seen."""
    found: dict[str, list[str]] = json.loads(CONSEQUENCES.read_text(encoding="utf-8"))
    return found


def cases_of(suite: str) -> list[str]:
    """Names of a suite's cases, without parameters, from its source."""
    names = []
    for file in sorted((suiterun.SUITES / suite).glob("test_*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names += [
            f"{suite}/{file.name}::{node.name}"
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
    return names


def unnamed(beside: Mapping[str, Sequence[str]]) -> list[str]:
    """Cases that no defect makes fail."""
    failing = {case.partition("[")[0] for defect in DEFECTS.values() for case in defect.named}
    failing |= {case for cases in beside.values() for case in cases}
    return [case for suite in SUITES for case in cases_of(suite) if case not in failing]


def rendered(beside: Mapping[str, Sequence[str]]) -> str:
    """The document."""
    lines = [_HEAD, *_counts(beside)]
    for suite in SUITES:
        lines += ["", f"## {suite.capitalize()}", "", "| Defect | Must fail | Also fail |", "|---|---|---|"]
        for defect in DEFECTS.values():
            if defect.suite == suite:
                named = "<br>".join(f"`{_short(case)}`" for case in defect.named)
                also = "<br>".join(f"`{_short(case)}`" for case in beside.get(defect.name, ()))
                lines.append(f"| **{defect.name}**: {defect.what} | {named} | {also} |")
    lines += [
        "",
        "## Legal variations, with which all cases must pass",
        "",
        "| Variation | What differs |",
        "|---|---|",
    ]
    lines += [f"| {name} | {described(variation)} |" for name, variation in VARIATIONS.items()]
    lines += ["", "## Cases that no defect of the catalogue makes fail", ""]
    lines += [f"- `{case}`" for case in unnamed(beside)] or ["None."]
    lines += _of_grpc()
    return "\n".join(lines) + "\n"


def _of_grpc() -> list[str]:
    """The defects of the suite ``grpc``, whose double is another server."""
    lines = ["", "## gRPC", "", "The suite `grpc` has a double of its own; each of its cases is named by a defect.", ""]
    lines += ["| Defect | Must fail |", "|---|---|"]
    for defect in grpc_defects.DEFECTS.values():
        named = "<br>".join(f"`{_short(f'grpc/{case}')}`" for case in defect.named)
        lines.append(f"| **{defect.name}**: {defect.what} | {named} |")
    lines += ["", "Legal variations, with which all cases must pass:", "", "| Variation | What differs |", "|---|---|"]
    return lines + [f"| {name} | {(kind.__doc__ or '').strip()} |" for name, (kind, _) in grpc_legal.VARIATIONS.items()]


def _counts(beside: Mapping[str, Sequence[str]]) -> list[str]:
    lines = ["| Suite | Cases | Cases that a defect makes fail | Defects |", "|---|---|---|---|"]
    missing = unnamed(beside)
    for suite in SUITES:
        cases = cases_of(suite)
        without = sum(case in missing for case in cases)
        defects = sum(defect.suite == suite for defect in DEFECTS.values())
        lines.append(f"| {suite} | {len(cases)} | {len(cases) - without} | {defects} |")
    return lines


def _short(case: str) -> str:
    """A case without what the heading says already."""
    file, _, name = case.partition("::")
    return f"{file.partition('/')[2].removeprefix('test_').removesuffix('.py')}: {name.removeprefix('test_')}"


def observed(name: str) -> tuple[str, list[str], list[str]]:
    """A defect, the cases that should have failed and did not, and those that failed beside them."""
    defect = DEFECTS[name]
    found = suiterun.run(defect.make, defect.runs, key=defect.key)
    named = {case.partition("[")[0] for case in defect.named}
    return (
        name,
        sorted(set(defect.named) - found.with_status("failed")),
        sorted(case for case in found.failed if "[" not in case and case not in named),
    )


def main() -> int:
    """Run every defect twice, and write both files; 1 when a defect was not named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--document", action="store_true", help="only write the table again")
    if parser.parse_args().document:
        DOCUMENT.write_text(rendered(consequences()), encoding="utf-8")
        return 0
    beside: dict[str, set[str]] = {name: set() for name in DEFECTS}
    trouble = 0
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for name, missed, also in pool.map(observed, [*DEFECTS, *DEFECTS]):
            beside[name].update(also)
            for case in missed:
                trouble = 1
                sys.stderr.write(f"{name} is not named by {case}\n")
    found = {name: sorted(cases) for name, cases in beside.items() if cases}
    CONSEQUENCES.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    DOCUMENT.write_text(rendered(found), encoding="utf-8")
    return trouble


if __name__ == "__main__":
    sys.exit(main())
