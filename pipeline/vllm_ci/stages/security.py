"""Security: access control, hostile input and leaks, including leaks to the server log."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vllm_ci.domain.program import Outcome
from vllm_ci.domain.report import Case, CaseStatus, StageResult
from vllm_ci.stages.stage import StageContext
from vllm_ci.stages.suite import ServerStage
from vllm_ci.suites import leaks
from vllm_ci.suites.findings import Finding, FindingPolicy

LOG_CASE = "security/server_log::test_holds_no_secret_no_prompt_and_no_line_of_a_user"


@dataclass(frozen=True, kw_only=True)
class SecurityStage(ServerStage):
    """Adds a case about the server log, which only the pipeline can read."""

    async def result(self, context: StageContext, outcomes: Sequence[Outcome]) -> StageResult:
        """Cases of the programs, and one about the server log."""
        extra = (await log_case(context, outcomes),) if context.service is not None and outcomes else ()
        result = await self.judged(context, outcomes, extra)
        stale = sorted({entry.id for entry in context.spec.accept if not entry.by_default} - _accepted(result.cases))
        return replace(result, metrics={**result.metrics, "accepted_but_not_seen": stale}) if stale else result


def _accepted(cases: Sequence[Case]) -> set[str]:
    """Ids of accepted findings that occurred."""
    lists = [case.properties.get("accepted") for case in cases]
    return {str(name) for names in lists if isinstance(names, list) for name in names}


async def log_case(context: StageContext, outcomes: Sequence[Outcome]) -> Case:
    """Check the server log for the API key, for canary words from the prompts, and for lines injected by users."""
    if context.service is None:
        return Case(name=LOG_CASE, status=CaseStatus.SKIPPED, message="the log of an external server cannot be read")
    words = [word for outcome in outcomes for word in await _canaries(outcome)]
    if context.spec.suite and not words:
        return Case(
            name=LOG_CASE, status=CaseStatus.ERRORED, message="the cases did not write the list of canary words that they sent"
        )
    name = context.api_key_env
    key = (context.secrets.get(name) or os.environ.get(name, "")) if name else ""
    if context.api_key_env and not key:
        message = f"{context.api_key_env} is not set: cannot check whether the API key is in the log"
        return Case(name=LOG_CASE, status=CaseStatus.ERRORED, message=message)
    found = leaks.in_log(await context.service.log(), secrets={"the API key": key}, prompts=words)
    found += [finding for outcome in outcomes for finding in await _in_artefacts(outcome, key)]
    policy = FindingPolicy(accepted=context.spec.accept, fail_on=context.spec.fail_on, today=dt.datetime.now(dt.UTC).date())
    judgement = policy.judge(found)
    properties = {"findings": [str(finding) for finding in found], "accepted": [finding.id for finding in judgement.accepted]}
    status = CaseStatus.FAILED if judgement.failing else CaseStatus.PASSED
    return Case(name=LOG_CASE, status=status, message=str(judgement), properties=properties)


async def _in_artefacts(outcome: Outcome, key: str) -> list[Finding]:
    """Findings if the output of the cases contains the API key."""
    if not key:
        return []
    texts = {"log": outcome.log}
    for name in await outcome.output.names():
        texts[name] = (await outcome.output.read(name)).decode(errors="replace")
    message = "the built-in tests wrote the API key"
    return [
        Finding(id=f"secret-in-artefact:{name}", severity="critical", message=message)
        for name, text in texts.items()
        if key in text
    ]


async def _canaries(outcome: Outcome) -> list[str]:
    try:
        words = json.loads(await outcome.output.read("canaries.json"))
    except (FileNotFoundError, ValueError):
        return []
    return [str(word) for word in words]


STAGE = SecurityStage(name="security")
