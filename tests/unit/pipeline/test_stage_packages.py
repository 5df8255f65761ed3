"""Stages that an installed package brings."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from standin.repository import repository
from unit.pipeline.own_stages import CONFIG, only
from vllm_ci import (
    Case,
    CaseStatus,
    ConfigError,
    MemoryEngine,
    Outcome,
    Program,
    StageContext,
    StageResult,
    Verdict,
    run_pipeline,
    verdict_of,
)
from vllm_ci.stages import installed

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_project"), pytest.mark.slow]


@dataclass(frozen=True)
class Licences:
    """As another package brings it."""

    name: str = "licences"
    needs_server: bool = False

    def programs(self, context: StageContext) -> tuple[Program, ...]:
        return (Program(name="licences", argv=("true",), image=context.image),)

    async def result(self, context: StageContext, outcomes: Sequence[Outcome]) -> StageResult:  # noqa: ARG002
        case = Case(name="all", status=CaseStatus.PASSED)
        return StageResult(name="licences", verdict=verdict_of([case])[0], seconds=0.0, cases=(case,))


LICENCES, NO_STAGE = Licences(), object()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed distribution with entry points, as pip leaves one."""
    folder = tmp_path.parent / f"{tmp_path.name}-packages"
    info = folder / "company_stages-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "company_stages.py").write_text(
        "from dataclasses import replace\n"
        "from unit.pipeline.test_stage_packages import LICENCES, NO_STAGE\n"
        "UNIT = replace(LICENCES, name='unit')\n"
    )
    (folder / "company_quits.py").write_text("raise SystemExit(0)\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: company-stages\nVersion: 1.0\n")
    lines = ("licences = company_stages:LICENCES", "broken = company_stages:gone", "odd = company_stages:NO_STAGE")
    (info / "entry_points.txt").write_text(
        "\n".join(
            [
                "[vllm_ci.stages]",
                *lines,
                "shadow = company_stages:UNIT",
                "quits = company_quits:Q",
                "a/../B = company_stages:LICENCES",
                "",
            ]
        )
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "company_stages", raising=False)
    installed._entry_points.cache_clear()
    yield
    installed._entry_points.cache_clear()


@pytest.mark.usefixtures("package")
async def test_a_stage_of_an_installed_package_is_used_by_its_name(tmp_path: Path) -> None:
    engine = MemoryEngine()
    report = await only(tmp_path, "{use: licences}", engine)
    assert report.verdict is Verdict.PASSED
    assert engine.programs == ["build", "licences"]


@pytest.mark.usefixtures("package")
async def test_a_pipeline_may_name_an_installed_stage_without_any_configuration(tmp_path: Path) -> None:
    body = "async def pipeline(ci):\n    await ci.test(await ci.build(), 'licences')\n    return ci.report()\n"
    repository(tmp_path, body)
    report = await run_pipeline(tmp_path, engine=MemoryEngine())
    assert [(stage.name, stage.verdict) for stage in report.stages] == [("licences", Verdict.PASSED)]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("licence", "did you mean licences?"),
        ("broken", "the stage broken from company-stages cannot be loaded"),
        ("odd", "is not a stage"),
        ("shadow", "cannot be called unit"),
        ("quits", "the stage quits from company-stages cannot be loaded"),
        ("a/../B", "cannot be a stage"),
    ],
)
async def test_a_stage_that_no_package_brings_is_refused_before_the_build(tmp_path: Path, name: str, said: str) -> None:
    repository(tmp_path, config=f"{CONFIG}  smoke: {{use: {name}}}\n")
    engine = MemoryEngine()
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        await run_pipeline(tmp_path, engine=engine)
    assert engine.programs == []


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", ["broken", "odd", "shadow", "quits", "a/../B"])
async def test_a_broken_stage_of_a_package_that_only_the_pipeline_names_keeps_what_was_found(tmp_path: Path, name: str) -> None:
    body = f"async def pipeline(ci):\n    await ci.test(await ci.build(), 'licences', {name!r})\n    return ci.report()\n"
    repository(tmp_path, body)
    report = await run_pipeline(tmp_path, engine=MemoryEngine(), report_dir=tmp_path / "runs")
    assert report.verdict is Verdict.ERRORED
    assert report.problem is not None
    assert report.problem.cause.startswith("ci/pipeline.py:2: ")
