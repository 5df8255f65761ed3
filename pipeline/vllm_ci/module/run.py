"""A run of the stages as an object: its verdict and its report, from one run."""

from typing import Annotated, Any

import dagger
from dagger import Doc, field, object_type

from vllm_ci.module.caching import never_cached
from vllm_ci.module.enums import Verdict


@object_type
class StageResult:
    """What one stage found."""

    name: Annotated[str, Doc("Its name")] = field()
    verdict: Annotated[Verdict, Doc("How it ended")] = field()
    seconds: Annotated[float, Doc("How long it took, in seconds")] = field()
    passed: Annotated[int, Doc("Number of cases that passed")] = field()
    failed: Annotated[int, Doc("Number of cases that failed")] = field()
    errored: Annotated[int, Doc("Number of cases that errored")] = field()
    skipped: Annotated[int, Doc("Number of cases that were skipped")] = field()
    message: Annotated[str, Doc("Why it failed or errored, with the names of the cases; empty if it passed")] = field()
    log: Annotated[dagger.File, Doc("All that its programs wrote")] = field()

    @never_cached
    async def assert_passed(self) -> str:
        """Return a line about the stage if it passed; fail with the verdict's exit code otherwise."""
        line = f"{self.name}: {self.verdict.value}, {self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        return await _passed(self.verdict, "\n".join(part for part in (line, self.message) if part))


@object_type
class Run:
    """What a run of the stages found. A run that did not pass has a report as well."""

    verdict: Annotated[Verdict, Doc("How it ended")] = field()
    exit_code: Annotated[int, Doc("0 passed, 1 failed, 3 errored, 4 inconclusive")] = field()
    digest: Annotated[str, Doc("Digest of the image that was tested; empty for a server that was given")] = field()
    dirty: Annotated[bool, Doc("The checkout had changes that are not committed: the report cannot be published")] = field()
    summary: Annotated[str, Doc("Table of the stages, with what failed")] = field()
    report: Annotated[dagger.Directory, Doc("report.json, junit.xml, ctrf.json, report.html and the logs")] = field()
    junit: Annotated[dagger.File, Doc("The results as JUnit XML")] = field()
    stages: Annotated[list[StageResult], Doc("What each stage found, in the order of the run")] = field()

    @never_cached
    async def stage(self, name: Annotated[str, Doc("Its name, e.g. streaming")]) -> StageResult:
        """What one stage found."""
        from vllm_ci.module.endings import end

        names = [each.name for each in self.stages]
        if name not in names:
            await end(f"vllm-ci: there is no stage {name} in this run\n  do:  choose from {', '.join(names)}", 2)
        return self.stages[names.index(name)]

    @never_cached
    async def assert_passed(self) -> str:
        """Return the summary if the verdict is passed; fail with the verdict's exit code otherwise."""
        return await _passed(self.verdict, self.summary)


async def _passed(verdict: Verdict, text: str) -> str:
    from vllm_ci.domain import report
    from vllm_ci.module.endings import end

    if code := report.Verdict(verdict.value).exit_code:
        await end(text, code)
    return text


def of(result: Any, report: dagger.Directory, summary: str) -> Run:
    """The object of a report (:class:`vllm_ci.domain.report.Report`) that was written."""
    made: Any = Run  # a dataclass, which the types of the SDK's decorator do not say
    run: Run = made(
        verdict=Verdict(result.verdict.value),
        exit_code=result.verdict.exit_code,
        digest=result.image.digest if result.image else "",
        dirty=bool(result.commit and result.commit.dirty),
        summary=summary,
        report=report,
        junit=report.file("junit.xml"),
        stages=[_stage(each, report) for each in result.stages],
    )
    return run


def _stage(result: Any, report: dagger.Directory) -> StageResult:
    from vllm_ci.domain.report import CaseStatus

    bad = [case for case in result.cases if case.status in (CaseStatus.FAILED, CaseStatus.ERRORED)]
    lines = [result.message, *(f"{case.name}: {case.message.partition(chr(10))[0]}" for case in bad)]
    made: Any = StageResult
    stage: StageResult = made(
        name=result.name,
        verdict=Verdict(result.verdict.value),
        seconds=round(float(result.seconds), 3),
        passed=result.count(CaseStatus.PASSED),
        failed=result.count(CaseStatus.FAILED),
        errored=result.count(CaseStatus.ERRORED),
        skipped=result.count(CaseStatus.SKIPPED),
        message="\n".join(line for line in lines if line),
        log=report.file(f"logs/{result.name}.log"),
    )
    return stage
