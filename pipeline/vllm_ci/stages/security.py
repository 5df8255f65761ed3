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
from vllm_ci.suites.known.catalogue import catalogue, vllm_version

LOG_CASE = "security/server_log::test_holds_no_secret_no_prompt_and_no_line_of_a_user"


@dataclass(frozen=True, kw_only=True)
class SecurityStage(ServerStage):
    """Adds a case about the server log, which only the pipeline can read."""

    async def result(self, context: StageContext, outcomes: Sequence[Outcome]) -> StageResult:
        """Cases of the programs, and one about the server log; and what is accepted or known but was not found."""
        result = await self.judged(context, outcomes)
        if context.service is not None and outcomes:
            case = await log_case(context, outcomes, version=vllm_version(result.facts))
            result = replace(await self.judged(context, outcomes, (case,)))
        return _gone(context, result)


def _gone(context: StageContext, result: StageResult) -> StageResult:
    """Add the accepted findings that were not found, and the known ones; the message says so where a user can act."""
    named = {entry.entry()["id"] for entry in context.spec.accept if "id" in entry.entry() and not entry.by_default}
    stale = sorted(named - _ids(result.cases, "accepted"))
    ran = [case.name for case in result.cases if case.status in (CaseStatus.PASSED, CaseStatus.FAILED)]
    known = catalogue().gone(vllm_version(result.facts), _ids(result.cases, "findings"), ran)
    metrics: dict[str, object] = {"accepted_but_not_seen": stale} if stale else {}
    notes = [f"accepted but not found any more: {', '.join(stale)}; remove them from `accept`"] if stale else []
    if known:
        metrics["known_but_not_seen"] = [each.id for each in known]
        listed = ", ".join(f"{finding.id} ({finding.span})" for finding in known)
        notes.append(f"known of earlier versions of vLLM, but not found in {vllm_version(result.facts)}: {listed}")
    message = "\n".join(filter(None, (result.message, *notes)))
    return replace(result, message=message, metrics={**result.metrics, **metrics})


def _ids(cases: Sequence[Case], name: str) -> set[str]:
    """Ids in a property of the cases: a list of ids, or of findings."""
    lists = [found for case in cases if isinstance(found := case.properties.get(name), list)]
    return {str(entry["id"] if isinstance(entry, dict) else entry) for found in lists for entry in found}


async def log_case(context: StageContext, outcomes: Sequence[Outcome], *, version: str = "") -> Case:
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
    policy = FindingPolicy(
        accepted=context.spec.accept,
        fail_on=context.spec.fail_on,
        today=dt.datetime.now(dt.UTC).date(),
        known=catalogue(),
        version=version,
    )
    judgement = policy.judge(found)
    properties = {
        "findings": [finding.properties for finding in judgement.found],
        "accepted": [finding.id for finding in judgement.accepted],
    }
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
