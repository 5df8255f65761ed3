"""Converts a report to JUnit XML, in the dialect that Jenkins, GitLab and pytest's ``xunit1`` share."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from vllm_ci.domain.causes import Cause, causes_of_report
from vllm_ci.domain.claims import exchange_of
from vllm_ci.domain.report import Case, CaseStatus, Report, StageResult
from vllm_ci.report.causes import CausesOfCases, other_properties
from vllm_ci.report.ctrf import cases_of, identity, suites_of

# Characters that XML 1.0 (section 2.2) does not allow, not even escaped.
_INVALID = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# JUnit has no "inconclusive"; it becomes an error whose message begins with that word.
_ELEMENT = {
    CaseStatus.FAILED: "failure",
    CaseStatus.ERRORED: "error",
    CaseStatus.INCONCLUSIVE: "error",
    CaseStatus.SKIPPED: "skipped",
}


def from_report(report: Report) -> str:
    """The report as one XML document with a suite for each stage; commit and digest are properties of every suite.

    Type and message of a failure are id and title of its cause, so that readers which group failures by these show causes. What
    the case itself says begins the text.
    """
    root = ET.Element("testsuites", {"name": "vllm-ci", "time": f"{report.seconds:.3f}"})
    causes = CausesOfCases(causes_of_report(report))
    for stage in suites_of(report):
        root.append(_suite(stage, report.started_at, identity(report), causes))
    _make_valid(root)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(stage: StageResult, started_at: str, known: Mapping[str, str], causes: CausesOfCases) -> ET.Element:
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
    suite.extend(_case(stage, case, causes.of(stage, case)) for case in cases)
    return suite


def _case(stage: StageResult, case: Case, causes: Sequence[Cause]) -> ET.Element:
    path, _, name = case.name.partition("::")
    folder = path.removesuffix(".py").replace("/", ".")
    classname = folder if folder.split(".")[0] == stage.name else f"{stage.name}.{folder}"
    element = ET.Element("testcase", {"classname": classname, "name": name or path, "time": f"{case.seconds:.3f}"})
    properties = {**other_properties(case), **({"cause": ", ".join(cause.id for cause in causes)} if causes else {})}
    if properties:
        _properties(element, properties)
    if tag := _ELEMENT.get(case.status):
        element.append(_outcome(tag, case, causes))
    return element


def _outcome(tag: str, case: Case, causes: Sequence[Cause]) -> ET.Element:
    """How a case ended that did not pass: by its worst cause, if it has one."""
    if not causes:
        outcome = ET.Element(tag, {"type": case.status.value, "message": case.message})
        outcome.text = case.details or None
        return outcome
    first = causes[0]
    title = f"inconclusive: {first.title}" if case.status is CaseStatus.INCONCLUSIVE else first.title
    outcome = ET.Element(tag, {"type": first.id, "message": title})
    parts = [case.message, *(f"rule: {cause.rule}" for cause in causes if cause.rule)]
    parts += [f"{name}: {text}" for name, text in exchange_of(case).items()]
    outcome.text = "\n".join(part for part in (*parts, case.details) if part) or None
    return outcome


def _properties(parent: ET.Element, values: Mapping[str, object]) -> None:
    properties = ET.SubElement(parent, "properties")
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        ET.SubElement(properties, "property", {"name": name, "value": text})


def _make_valid(root: ET.Element) -> None:
    """Replace characters that XML does not have, wherever they are: names of properties and cases are of others as well."""
    for element in root.iter():
        element.text = _INVALID.sub("\ufffd", element.text) if element.text else None
        for name, value in element.attrib.items():
            element.set(name, _INVALID.sub("\ufffd", value))
