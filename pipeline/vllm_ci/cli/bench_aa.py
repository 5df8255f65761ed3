"""``vllm-ci bench --aa``: the gate of the stage ``performance`` tried on two of the same image."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from vllm_ci.cli.output import print_json

if TYPE_CHECKING:
    from vllm_ci.config.load import Loaded
    from vllm_ci.domain.project import Project
    from vllm_ci.domain.report import StageResult
    from vllm_ci.pipeline.steps import RunResult

_SLOWDOWN = 0.1


def compare_with_itself(loaded: Loaded, *, as_json: bool) -> int:
    """Build the image of the checked-out commit, compare it with itself, and print verdict, noise and power.

    Nothing is written to the directory of reports: a comparison of an image with itself is no evidence for a release.

    Args:
        loaded: The configuration.
        as_json: Print a JSON object.

    Returns:
        The exit code of the verdict; 1 is a false alarm.
    """
    from vllm_ci.cli import commits, interruptible, progress
    from vllm_ci.config.checkout import open_project
    from vllm_ci.engines import choose, open_engine
    from vllm_ci.pipeline import steps

    opened = open_project(loaded, ("performance",), note=commits.note)
    project = _with_itself(opened.project)
    name, why = choose(loaded.config.engine)
    screen = progress.console()
    screen.print(f"{project.name} at {opened.commit.short} against itself, engine {name} ({why})")
    with progress.watch(screen, opened.secrets) as emit:
        record = steps.RunRecord(emit=emit)
        stopped: list[RunResult] = []

        async def main() -> RunResult:
            async with open_engine(name, port=loaded.config.server.port) as engine:
                return await steps.run(engine, project, opened.source(engine), record.emit, record=record)

        async def stopping(signal: str) -> None:
            stopped.append(await record.stop(f"interrupted by {signal}"))
            _show(stopped[-1], as_json=as_json)

        result = interruptible.run(main, stopping, lambda _signal: None)
    return _show(result, as_json=as_json)


def _with_itself(project: Project) -> Project:
    from vllm_ci.domain.performance import SELF, PerformanceSpec

    (stage,) = project.stages
    spec = replace(stage.performance or PerformanceSpec(), baseline=SELF)
    return replace(project, stages=(replace(stage, performance=spec),), known=(replace(stage, performance=spec),))


def _show(result: RunResult, *, as_json: bool) -> int:
    (stage,) = result.report.stages
    found = {**noise(stage), "verdict": str(stage.verdict), "message": stage.message}
    if result.report.problem is not None:
        found["problem"] = result.report.problem.line
    if as_json:
        print_json({**found, "comparison": stage.metrics.get("comparison", {})})
    else:
        _print(found)
    return int(stage.verdict.exit_code)


def noise(stage: StageResult) -> dict[str, Any]:
    """Noise between starts by metric, and what it implies: shares of comparisons that fail and pass, and the power.

    Args:
        stage: Result of the stage.
    """
    from vllm_ci.performance import pairs, power
    from vllm_ci.performance.result import spec_of

    spec = spec_of(stage)
    comparison = stage.metrics.get("comparison")
    estimates: dict[str, Any] = dict(comparison.get("estimates") or {}) if isinstance(comparison, dict) else {}
    if spec is None or not estimates:
        return {}
    spread = {name: float(each["spread"]) for name, each in estimates.items()}
    limits = pairs.limits(spec)
    equal, slower = (power.shares(spread, limits, spec.looks, slowdown=share) for share in (0.0, _SLOWDOWN))
    return {
        "pairs": next(iter(estimates.values()))["pairs"],
        "sd_of_log_ratio": spread,
        "equal_images": {str(decision): round(share, 3) for decision, share in equal.items()},
        "slower_by_10_percent": {str(decision): round(share, 3) for decision, share in slower.items()},
    }


def _print(found: dict[str, Any]) -> None:
    click.echo(f"{found['verdict']}: {found['message'] or found.get('problem', '')}")
    if "sd_of_log_ratio" not in found:
        return
    click.echo(f"noise between two starts (standard deviation of the log ratio, {found['pairs']} pairs):")
    for name, spread in found["sd_of_log_ratio"].items():
        click.echo(f"  {name:<20} {spread:.1%}")
    for key, what in (("equal_images", "equal images"), ("slower_by_10_percent", "an image that is 10 % slower")):
        shares = ", ".join(f"{share:.0%} {decision}" for decision, share in found[key].items())
        click.echo(f"with this noise, of comparisons of {what}: {shares}")
