"""Converts a report to JUnit XML, in the dialect that Jenkins, GitLab and pytest's ``xunit1`` share."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET

from vllm_ci.domain.report import Case, CaseStatus, Report, StageResult
from vllm_ci.report.ctrf import cases_of, identity, suites_of

# Characters that XML 1.0 (section 2.2) does not allow, not even escaped.
_INVALID = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# JUnit has no "inconclusive"; it becomes an error of that type.
_ELEMENT = {
    CaseStatus.FAILED: "failure",
    CaseStatus.ERRORED: "error",
    CaseStatus.INCONCLUSIVE: "error",
    CaseStatus.SKIPPED: "skipped",
}


def from_report(report: Report) -> str:
    """The report as one XML document with a suite for each stage; commit and digest are properties of every suite."""
    root = ET.Element("testsuites", {"name": "vllm-ci", "time": f"{report.seconds:.3f}"})
    for stage in suites_of(report):
        root.append(_suite(stage, report.started_at, identity(report)))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(stage: StageResult, started_at: str, known: Mapping[str, str]) -> ET.Element:
    cases = cases_of(stage)
    elements = [_ELEMENT.get(case.status, "") for case in cases]
    suite = ET.Element(
        "testsuite",
        {
            "name": stage.name,
            "tests": str(len(cases)),
            "failures": str(elements.count("failure")),
            "errors": str(elements.count("error")),
            "skipped": str(elements.count("skipped")),
            "time": f"{stage.seconds:.3f}",
            "timestamp": started_at,
        },
    )
    _properties(suite, {**known, "verdict": stage.verdict.value})
    suite.extend(_case(stage, case) for case in cases)
    return suite


def _case(stage: StageResult, case: Case) -> ET.Element:
    path, _, name = case.name.partition("::")
    folder = path.removesuffix(".py").replace("/", ".")
    classname = folder if folder.split(".")[0] == stage.name else f"{stage.name}.{folder}"
    element = ET.Element("testcase", {"classname": classname, "name": _text(name or path), "time": f"{case.seconds:.3f}"})
    if case.properties:
        _properties(element, case.properties)
    if tag := _ELEMENT.get(case.status):
        outcome = ET.SubElement(element, tag, {"type": case.status.value, "message": _text(case.message)})
        outcome.text = _text(case.details) or None
    return element


def _properties(parent: ET.Element, values: Mapping[str, object]) -> None:
    properties = ET.SubElement(parent, "properties")
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        ET.SubElement(properties, "property", {"name": name, "value": _text(text)})


def _text(text: str) -> str:
    return _INVALID.sub("\ufffd", text)
