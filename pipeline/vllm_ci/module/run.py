"""A run of the stages as an object: its verdict and its report, from one run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import dagger
from dagger import Doc, dag, field, object_type
from rich.console import Console

from vllm_ci.cli import progress
from vllm_ci.domain.events import Emit
from vllm_ci.domain.stage import StageSpec
from vllm_ci.engines.dagger_service import PORT, DaggerService
from vllm_ci.module import session
from vllm_ci.module.caching import never_cached
from vllm_ci.module.session import Work
from vllm_ci.pipeline import steps
from vllm_ci.report import folder, redaction
from vllm_ci.stages import STAGES
from vllm_ci.stages.stage import StageContext


@object_type
class Run:
    """What a run of the stages found; a red one has a report as well."""

    verdict: Annotated[str, Doc("passed, failed, errored (we could not tell) or inconclusive")] = field()
    exit_code: Annotated[int, Doc("0 passed, 1 failed, 3 errored, 4 inconclusive")] = field()
    digest: Annotated[str, Doc("Digest of the image that was tested; empty for a server that was given")] = field()
    summary: Annotated[str, Doc("Table of the stages, with what failed")] = field()
    report: Annotated[dagger.Directory, Doc("report.json, junit.xml, ctrf.json, report.html and the logs")] = field()
    python_image: str = ""

    @never_cached
    async def assert_passed(self) -> str:
        """Return the summary if the verdict is passed, fail with the verdict's exit code otherwise."""
        if self.exit_code:
            await session.end(self.python_image, self.summary, self.exit_code)
        return self.summary


async def foreign(work: Work, server: dagger.Service, model: str, emit: Emit) -> steps.Run:
    """Run the stages that need no more than a server's URL against one that somebody else runs."""
    ports = [await port.port() for port in await server.ports()]
    held = DaggerService(name="vllm", port=ports[0] if ports else PORT, handle=server)
    context = StageContext(
        spec=StageSpec(name=""),
        service=held,
        model=model,
        api_key_env=work.project.server.api_key_env,
        secrets=work.source.secrets,
        source=work.source.project,
    )
    stages = [spec for spec in work.project.stages if STAGES[spec.name].needs_server]
    return await steps.test(work.engine, stages, context, emit)


async def of(result: steps.Run, *, hidden: Sequence[str], python_image: str) -> Run:
    """The object of a result, its report written."""
    report = redaction.redacted(result.report, hidden)
    written = folder.write(Path("runs"), report, result.logs, secrets=hidden)
    text = io.StringIO()
    progress.close(Console(file=text, width=120, highlight=False, soft_wrap=True), report, "dagger call run ... report")
    made: Any = Run  # a dataclass, which the types of the SDK's decorator do not say
    run: Run = made(
        verdict=report.verdict.value,
        exit_code=report.verdict.exit_code,
        digest=report.image.digest if report.image else "",
        summary=folder.redacted(text.getvalue(), hidden),
        report=await dag.current_module().workdir(str(written)).sync(),
        python_image=python_image,
    )
    return run
