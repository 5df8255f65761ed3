"""The command that repeats just the cases of a cause."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from vllm_ci.domain.causes import AffectedCase, Cause
from vllm_ci.domain.report import Report

URL = "http://127.0.0.1:8000"
GRPC = "127.0.0.1:50051"
_SERVER_STAGES = ("integration", "streaming", "security")
# Characters that pytest's -k takes in a name (_pytest.mark.expression, Scanner.lex).
_KEYWORD = re.compile(r"[\w:+.\[\]/-]+")
_MOST = 4


def command(cause: Cause, report: Report) -> str:
    """The command as a line for a shell.

    Cases of a stage that needs only a server's URL are repeated by ``vllm-ci test --url``, others with their whole stage.
    """
    stages = list(dict.fromkeys(case.stage.partition("@")[0] for case in cause.cases))
    if stages == ["grpc"]:
        expression = _expression(cause.cases)
        return shlex.join(["vllm-ci", "test", "--grpc", GRPC, *(["-k", expression] if expression else [])])
    chosen = [part for stage in stages for part in ("--stage", stage)]
    if not all(stage in _SERVER_STAGES for stage in stages):
        return shlex.join(["vllm-ci", "run" if report.commit else "test", *([] if report.commit else ["--url", URL]), *chosen])
    expression = _expression(cause.cases)
    return shlex.join(["vllm-ci", "test", "--url", URL, *chosen, *(["-k", expression] if expression else [])])


def needs_server(line: str, report: Report) -> bool:
    """Whether the image must be served first for :func:`command`."""
    return report.commit is not None and " --url " in line


def _expression(cases: Sequence[AffectedCase]) -> str:
    """An expression for pytest's ``-k`` that selects the cases; their functions if they are many; empty for whole stages."""
    names = [case.name.partition("::")[2] for case in cases]
    if not all(names):
        return ""
    whole = list(dict.fromkeys(name.rpartition("::")[2] for name in names))
    functions = list(dict.fromkeys(name.partition("[")[0] for name in whole))
    chosen = whole if len(whole) <= _MOST and all(map(_KEYWORD.fullmatch, whole)) else functions
    return " or ".join(chosen) if all(map(_KEYWORD.fullmatch, chosen)) and len(chosen) <= 4 * _MOST else ""
