"""JSON schemas of ``report.json`` and of ``vllm-ci run --json``; within a format, keys are added and never removed.

``python -m vllm_ci.report.schema report > pipeline/vllm_ci/schema/report.schema.json``, and the same with ``run``. A test
checks that the files are up to date.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pydantic import TypeAdapter

from vllm_ci.domain.report import CaseStatus, Report, Verdict
from vllm_ci.report.document import FORMAT

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEXT, _COUNT, _NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "number"}
_VERDICT = {"enum": [verdict.value for verdict in Verdict]}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_CAUSE = _object(
    {
        "id": {"type": "string", "minLength": 1, "description": "Stable from run to run."},
        "title": {"type": "string", "minLength": 1, "description": "What is wrong, in one line."},
        "status": {"enum": ["failed", "errored", "inconclusive"], "description": "The worst status of its cases."},
        "severity": {"enum": ["", "low", "medium", "high", "critical"], "description": "Empty if unknown."},
        "rule": {"type": "string", "description": "What is broken, and where it is written; empty if unknown."},
        "cases": {
            **_list(_object({"stage": _TEXT, "case": {"type": "string", "description": "Empty for the whole stage."}})),
            "minItems": 1,
        },
    },
    {
        "request": {"type": "string", "description": "Beginning of the request of the first case that recorded one."},
        "response": {"type": "string", "description": "Beginning of the response to it."},
    },
)
_DERIVED = {
    "causes": {
        **_list(_CAUSE),
        "description": "Failed, errored, inconclusive; in that order by severity and number of cases.",
    },
    "skips": {**_list(_object({"reason": _TEXT, "cases": _COUNT})), "description": "Skipped cases by reason."},
}
_STAGE = _object(
    {
        "name": _TEXT,
        "verdict": _VERDICT,
        "seconds": _NUMBER,
        "cases": _object({status.value: _COUNT for status in CaseStatus}),
        "failures": _list(_object({"case": {"type": "string", "description": "Empty for the whole stage."}, "message": _TEXT})),
    }
)
_PROBLEM = _object(dict.fromkeys(("step", "summary", "cause", "explanation", "change", "log"), _TEXT))

_SHARE = {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}]}
_FIGURE = {"anyOf": [_NUMBER, {"type": "null"}]}
_ROW = _object(
    {
        "server": _TEXT,
        "verdict": _VERDICT,
        **dict.fromkeys(("output_tokens_per_s", "ttft_ms", "tpot_ms", "memory_bytes", "gpu_bytes"), _FIGURE),
        **dict.fromkeys(("same_answers", "same_prefix"), _SHARE),
    }
)


def of_report() -> dict[str, Any]:
    """Schema of ``report.json``; ``causes`` and ``skips`` are missing in files of earlier versions."""
    made = TypeAdapter(Report).json_schema()
    stated = {"format": {"const": FORMAT}, "verdict": _VERDICT}
    properties = {**stated, **_DERIVED, **made["properties"]}
    return {"$schema": _DIALECT, **made, "properties": properties, "required": [*stated, *made["required"]]}


def of_summary() -> dict[str, Any]:
    """Schema of the output of ``vllm-ci run --json`` and ``vllm-ci test --json``."""
    commit = _object({"sha": _TEXT, "dirty": {"type": "boolean"}})
    image = _object({"reference": _TEXT, "digest": _TEXT})
    model = _object(dict.fromkeys(("ref", "name", "version", "digest"), _TEXT))
    required = {
        "verdict": _VERDICT,
        "commit": {"anyOf": [commit, {"type": "null"}]},
        "image": {"anyOf": [image, {"type": "null"}]},
        "model": {
            "anyOf": [model, {"type": "null"}],
            "description": "The served model; null when it is not one of the models' repository.",
        },
        "engine": _TEXT,
        "seconds": _NUMBER,
        "report_dir": _TEXT,
        **_DERIVED,
        "stages": _list(_STAGE),
    }
    return {"$schema": _DIALECT, "title": "Result of a run", **_object(required, {"problem": _PROBLEM, "matrix": _list(_ROW)})}


if __name__ == "__main__":
    made = {"report": of_report, "run": of_summary}[sys.argv[1]]()
    sys.stdout.write(json.dumps(made, indent=2, ensure_ascii=False) + "\n")
