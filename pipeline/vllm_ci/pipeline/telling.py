"""Why a program of the pipeline failed."""

from __future__ import annotations

from vllm_ci.domain.startup_cause import startup_cause
from vllm_ci.stages import reading


def failure(log: str) -> dict[str, str]:
    """The error message of a failed vllm-ci command, by parts; without one, the cause from its log."""
    _, found, said = f"\n{log}".rpartition("\nvllm-ci: ")
    if not found:
        cause = startup_cause(log)
        return {
            "message": cause.line,
            "why": cause.explanation or reading.tail(log),
            "remedy": cause.change or "vllm-ci doctor",
        }
    message, _, rest = said.partition("\n  why: ")
    why, _, remedy = rest.partition("\n  do:  ")
    if not rest:
        message, _, remedy = said.partition("\n  do:  ")
    return {"message": message.strip(), "why": why.strip(), "remedy": remedy.strip()}
