"""Performance of one server that runs, as in a matrix: measured in rounds, with its memory and its greedy answers.

Nothing is judged: two starts of one server differ by 5 to 9 %, so the figures of one start inform, and
:mod:`vllm_ci.stages.performance` compares versions by many.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.performance import PerformanceSpec
from vllm_ci.domain.plain_json import is_number
from vllm_ci.domain.program import Directory, Outcome, Program, Service
from vllm_ci.domain.report import Case, CaseStatus, StageResult, Verdict, verdict_of
from vllm_ci.stages import reading
from vllm_ci.stages.stage import StageContext

MEASURED = "measured"
"""Key of the metrics of the stage."""
PROGRAM = "measure"
"""Name of the program that measures one start."""
_SEED = 1
_STATUS = {each: CaseStatus(each.value) for each in Verdict}


def measuring(
    service: Service,
    spec: PerformanceSpec,
    *,
    model: str,
    api_key_env: str,
    asked: Directory | None = None,
    greedy: bool = False,
) -> Program:
    """The program that measures one start of a server.

    Args:
        service: The server.
        spec: How it is measured.
        model: Served model name.
        api_key_env: Name of the variable with the API key; empty if none is needed.
        asked: What another server was asked, so that this one does the same work.
        greedy: Also keep greedy answers.
    """
    words = {
        "url": "{url.vllm}",
        "model": model,
        "api-key-env": api_key_env,
        "workload": spec.workload,
        "requests": spec.requests,
        "rounds": spec.rounds,
        "warm-up": spec.warm_up,
        "concurrency": spec.concurrency,
        "rate": spec.rate or "",
        "seed": _SEED,
        "limit": spec.timeout_s,
        "asked": "{in.asked}" if asked is not None else "",
        "out": "{out}",
    }
    options = (f"--{name}={value}" for name, value in words.items() if value != "")
    return Program(
        name=PROGRAM,
        argv=("python", "-m", "vllm_ci.performance.program", *options, *(("--greedy",) if greedy else ())),
        secrets=(api_key_env,) if api_key_env else (),
        inputs={"asked": asked} if asked is not None else {},
        needs={"vllm": service},
        timeout_s=spec.timeout_s,
    )


@dataclass(frozen=True, kw_only=True)
class MeasuredStage:
    """Measures the server that it is given.

    Attributes:
        name: ``performance``.
    """

    name: str = "performance"
    needs_server: bool = True

    def programs(self, context: StageContext) -> tuple[Program, ...]:
        """The program that measures, with the settings of the stage.

        Raises:
            UsageError: There is no server.
        """
        if context.service is None:
            raise UsageError(f"the stage {self.name} needs a server that the pipeline serves", remedy="use ci.serve(image)")
        spec = context.spec.performance or PerformanceSpec()
        program = measuring(context.service, spec, model=context.model, api_key_env=context.api_key_env, greedy=True)
        return (replace(program, timeout_s=spec.timeout_s * (spec.rounds + 1)),)

    async def result(self, context: StageContext, outcomes: Sequence[Outcome]) -> StageResult:
        """A case for each round, and the figures as metrics."""
        (outcome,) = outcomes
        spec = context.spec.performance or PerformanceSpec()
        found = await _read(outcome, "measurement.json")
        rounds = [each for each in found.get("rounds", ()) if isinstance(each, dict)]
        cases = [_case(number, each) for number, each in enumerate(rounds, 1)]
        verdict, message = verdict_of(cases) if cases else (Verdict.ERRORED, "")
        if not outcome or len(rounds) < spec.rounds:
            how = f"measuring {reading.how_it_ended(outcome)}, after {len(rounds)} of {spec.rounds} rounds"
            message = "\n".join(filter(None, (how, reading.tail(outcome.log), message)))
            verdict = Verdict.worst((verdict, Verdict.ERRORED))
        measured = {
            **_medians(rounds),
            **_peaks(found.get("measurements", ())),
            "greedy": (await _read(outcome, "greedy.json")).get("answers", []),
            "rounds": rounds,
        }
        return StageResult(
            name=self.name,
            verdict=verdict,
            seconds=round(outcome.seconds, 3),
            cases=tuple(cases),
            message=message,
            metrics={MEASURED: measured},
            log=outcome.log,
        )


async def _read(outcome: Outcome, name: str) -> dict[str, Any]:
    """A JSON object that the program wrote; empty if it wrote none."""
    try:
        data = json.loads(await outcome.output.read(name))
    except (FileNotFoundError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _case(number: int, data: Mapping[str, Any]) -> Case:
    values = dict(data.get("values") or {})
    try:
        status = _STATUS[Verdict(str(data.get("verdict")))]
    except ValueError:
        status = CaseStatus.ERRORED
    message = "; ".join(map(str, data.get("reasons") or ()))
    return Case(name=f"performance::round-{number}", status=status, message=message, properties=values)


def _medians(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Medians over the rounds in which the value is there."""
    names = dict.fromkeys(name for each in rounds for name in each.get("values") or {})
    values = {name: [each["values"][name] for each in rounds if name in (each.get("values") or {})] for name in names}
    return {name: statistics.median(each) for name, each in values.items() if all(map(is_number, each))}


def _peaks(measurements: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Largest memory over the rounds, where the server runs on the machine of the program."""
    found: dict[str, float] = {}
    for each in measurements:
        peak = (each.get("resources") or {}).get("peak") or {}
        for name in ("pss_bytes", "rss_bytes", "gpu_bytes"):
            if is_number(value := peak.get(name)):
                found[name] = max(found.get(name, 0.0), value)
    return found


STAGE = MeasuredStage()
