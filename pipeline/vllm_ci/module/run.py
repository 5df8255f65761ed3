"""A run of the stages as an object, with verdict and report."""

from typing import Annotated, Any

import dagger
from dagger import Doc, field, object_type

from vllm_ci.module.caching import never_cached
from vllm_ci.module.enums import Verdict


@object_type
class StageResult:
    """The result of one stage."""

    name: Annotated[str, Doc("Name of the stage")] = field()
    verdict: Annotated[Verdict, Doc("Verdict of the stage")] = field()
    seconds: Annotated[float, Doc("Duration in seconds")] = field()
    passed: Annotated[int, Doc("Number of cases that passed")] = field()
    failed: Annotated[int, Doc("Number of cases that failed")] = field()
    errored: Annotated[int, Doc("Number of cases that errored")] = field()
    skipped: Annotated[int, Doc("Number of cases that were skipped")] = field()
    message: Annotated[str, Doc("Why it failed or errored, with the cases; empty if it passed")] = field()
    log: Annotated[dagger.File, Doc("Output of its programs")] = field()

    @never_cached
    async def assert_passed(self) -> str:
        """Return a summary line if the stage passed; otherwise fail with the exit code of its verdict."""
        line = f"{self.name}: {self.verdict.value}, {self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        return await _passed(self.verdict, "\n".join(part for part in (line, self.message) if part))


@object_type
class Run:
    """The result of a run of the stages. It has a report even if the run did not pass."""

    verdict: Annotated[Verdict, Doc("Verdict of the run")] = field()
    exit_code: Annotated[int, Doc("0 passed, 1 failed, 3 errored, 4 inconclusive")] = field()
    digest: Annotated[str, Doc("Digest of the tested image; empty for a given server")] = field()
    dirty: Annotated[bool, Doc("The checkout had uncommitted changes: the report cannot be published")] = field()
    summary: Annotated[str, Doc("Table of the stages, with failures")] = field()
    report: Annotated[dagger.Directory, Doc("report.json, junit.xml, ctrf.json, report.html and logs")] = field()
    junit: Annotated[dagger.File, Doc("Results as JUnit XML")] = field()
    stages: Annotated[list[StageResult], Doc("Results of the stages, in run order")] = field()

    @never_cached
    async def stage(self, name: Annotated[str, Doc("Name of the stage, e.g. streaming")]) -> StageResult:
        """Return the result of one stage."""
        from vllm_ci.module.endings import end

        names = [each.name for each in self.stages]
        if name not in names:
            await end(f"vllm-ci: this run has no stage {name}\n  do:  choose from {', '.join(names)}", 2)
        return self.stages[names.index(name)]

    @never_cached
    async def assert_passed(self) -> str:
        """Return the summary if the verdict is passed; otherwise fail with the exit code of the verdict."""
        return await _passed(self.verdict, self.summary)


async def _passed(verdict: Verdict, text: str) -> str:
    from vllm_ci.domain import report
    from vllm_ci.module.endings import end

    if code := report.Verdict(verdict.value).exit_code:
        await end(text, code)
    return text


def of(result: Any, report: dagger.Directory, summary: str) -> Run:
    """Create the object from a report (:class:`vllm_ci.domain.report.Report`) and its written files."""
    made: Any = Run  # a dataclass, but the types of the SDK's decorator lose that
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
