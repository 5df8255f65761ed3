"""What the deployment commands print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vllm_ci.cli import keeper
from vllm_ci.cli.output import say
from vllm_ci.deploy.deployment import Deployment
from vllm_ci.deploy.plan import Plan, names
from vllm_ci.deploy.target import Current
from vllm_ci.domain.errors import FailedError, InconclusiveError, UsageError
from vllm_ci.release.record import Release

if TYPE_CHECKING:
    from vllm_ci.cli.deploying import Channel
    from vllm_ci.deploy.course import Course
    from vllm_ci.release.deployed import Deployable
    from vllm_ci.targets.local.starts import Start, Starts


def deployment_json(found: Deployment | None) -> dict[str, object] | None:
    """A deployment as plain data."""
    if found is None:
        return None
    return {
        "id": found.id,
        "target": found.target,
        "strategy": found.plan.strategy,
        "phase": found.phase,
        "live": found.phase == "live" or found.kept,
        "step": None if found.ended else found.step.name,
        "reason": found.reason,
        "release": {"commit": found.release.commit, "digest": found.release.digest},
        "previous": {"commit": found.previous.commit, "digest": found.previous.digest} if found.previous else None,
        "requests": {"observed": found.requests, "new": found.exposed, "failed": found.harmed},
        "happened": [asdict(each) for each in found.happened],
    }


def current_json(current: Current) -> dict[str, object]:
    """What runs as plain data."""
    return {
        "address": current.address,
        "weights": dict(current.route.weights),
        "mirror": {"revision": current.route.mirror, "percent": current.route.mirror_percent} if current.route.mirror else None,
        "headers": dict(current.route.headers),
        "scaled_to_zero": current.asleep,
        "gateway_down": current.down,
        "revisions": {
            name: {"commit": each.commit, "digest": each.image.digest, "wanted": current.wanted.get(name, 0)}
            for name, each in current.revisions.items()
        },
        "replicas": [asdict(each) for each in current.replicas],
    }


def run_json(
    where: Channel, ready: Deployable, done: Deployment | None, current: Current, lines: list[str], *, dry_run: bool
) -> dict[str, object]:
    """What ``deploy CHANNEL --json`` prints."""
    return {
        "channel": where.name,
        "target": where.place.settings.target,
        "release": {"commit": ready.release.commit, "digest": ready.release.digest},
        "decision": {"allowed": ready.decision.allowed, "reasons": list(ready.decision.reasons)},
        "changed": done is not None,
        "dry_run": dry_run,
        "plan": lines,
        "deployment": deployment_json(done),
        "current": current_json(current),
    }


def plan_lines(plan: Plan | None, release: Release) -> list[str]:
    """A plan, a line for each step."""
    if plan is None:
        return [f"{release.commit[:12]} serves already: nothing to change"]
    return [f"strategy {plan.strategy}:", *(f"  {line}" for line in names(plan.steps))]


def result(found: Deployment | None, release: Release, channel: str, current: Current, *, logs: Path) -> None:
    """Print how a deployment ended; the caller passes the exit code on.

    Raises:
        FailedError: It went back.
        InconclusiveError: A person has to decide.
    """
    if found is None:
        click.echo(f"{channel} serves {release.commit[:12]} already: nothing to change")
    elif found.phase == "live" and found.reason:
        say(f"{found.reason}: vllm-ci deploy status {channel}")
    elif found.phase == "returned":
        raise FailedError(
            f"{found.release.commit[:12]} does not serve for {channel}: {found.exposure}",
            why=found.reason,
            remedy=f"the channel still points to it: vllm-ci rollback {channel}, or publish a release that is repaired"
            + (f"\n  log: {logs}" if logs.is_dir() else ""),
        )
    elif found.phase == "held":
        raise InconclusiveError(
            f"the deployment of {found.release.commit[:12]} to {channel} waits for a person at step `{found.step.name}`",
            why=found.reason,
            remedy=f"vllm-ci deploy promote {channel} or vllm-ci deploy abort {channel}",
        )
    else:
        before = f" (before: {found.previous.commit[:12]})" if found.previous else ""
        click.echo(f"{channel} serves {found.release.commit[:12]} {found.release.digest[:19]}{before}")
        click.echo(f"address  {current.address or 'none'}")
        if found.kept:
            click.echo(f"{keeper.told(found)}: vllm-ci rollback {channel}")


def exit_code(found: Deployment | None) -> int:
    """The exit code of how a deployment ended."""
    if found is None:
        return 0
    return {"returned": FailedError.exit_code, "held": InconclusiveError.exit_code}.get(found.phase, 0)


def write_picture(file: Path, found: Deployment | None, course: Course | None, channel: str) -> None:
    """Draw the course of a deployment.

    Raises:
        UsageError: Nothing was measured, or the file cannot be written.
    """
    from vllm_ci.deploy import picture

    if found is None or course is None or not course.points:
        raise UsageError(
            f"nothing was measured in the last deployment of {channel}",
            why="only steps with a time are measured: hold_s and watch_s",
            remedy="deploy with --strategy canary",
        )
    try:
        file.write_text(picture.svg(found, course), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}", remedy="name another file") from error


def show(current: Current, found: Deployment | None, channel: str, started: Starts) -> None:
    """Print what runs."""
    say(f"channel   {channel}")
    say(f"address   {current.address or 'none'}")
    if current.down:
        say(f"gateway   it does not run, so no request is answered; to start it: vllm-ci deploy {channel}")
    if found is not None:
        state = f"{found.phase}{'' if found.ended else f', step `{found.step.name}`'}"
        say(f"last      {found.plan.strategy} to {found.release.commit[:12]}: {'live' if found.kept else state}")
        if found.reason:
            say(f"reason    {' '.join(found.reason.split())}")
    running = {each.revision for each in current.replicas} | current.route.revisions
    for name, each in sorted(current.revisions.items()):
        if name not in running:  # kept to go back to
            continue
        share = current.route.weights.get(name, 0)
        copies = f", {current.route.mirror_percent} % copied" if current.route.mirror == name else ""
        ready = f"{current.ready(name)} of {current.wanted.get(name, 0)} ready"
        say(f"revision  {name}  {share:>3} %{copies}  {ready}  {each.image.digest[:19]}")
    for replica in current.replicas:
        restarts = f"  {replica.restarts} restarts" if replica.restarts else ""
        message = f"  {replica.message.splitlines()[0]}" if replica.message else ""
        say(f"replica   {replica.name}  {replica.state}  {replica.url}{restarts}{message}")
    if current.asleep:
        say("scaled to zero, wakes on a request")
    elif not current.replicas:
        say("nothing runs")
    if started.last:
        say(f"start     {_start_line(started.last)}")


def _start_line(start: Start) -> str:
    """The last start from zero, by phase."""
    if start.error:
        return f"the last one from zero failed: {' '.join(start.error.split())[:300]}"
    phases = {
        "process": start.process_s,
        "ready": start.ready_s,
        "requests sent": start.routed_s,
        "first byte": start.first_byte_s,
    }
    told = ", ".join(f"{name} after {value:.1f} s" for name, value in phases.items() if value is not None)
    return f"the last one from zero: {told}; {start.waited} requests waited"
