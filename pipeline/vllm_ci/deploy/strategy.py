"""Strategies: how a new revision takes the place of the old one. Pure: settings and a change give a plan.

Terms and defaults are those of Argo Rollouts and Flagger where they have them; what is left out stands in
``docs/decisions/live-traffic.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from vllm_ci.deploy.plan import Change, Plan, Step, portion
from vllm_ci.deploy.steps import all_requests, preview, start, to_new
from vllm_ci.deploy.target import Route, TargetCapabilities
from vllm_ci.domain.errors import UsageError


class Strategy(Protocol):
    """Settings of a way to change what serves."""

    name: ClassVar[str]

    def steps(self, change: Change, able: TargetCapabilities) -> tuple[Step, ...]:
        """The states up to that in which the new revision gets all requests.

        Raises:
            UsageError: The settings do not fit the change.
        """


def plan(strategy: Strategy, change: Change, able: TargetCapabilities, *, target: str, keep_s: float = 0.0) -> Plan:
    """The plan of a strategy.

    Args:
        strategy: With its settings.
        change: What is to change.
        able: What the target can do.
        target: Its name, for messages.
        keep_s: How long the old revision is kept ready when it gets no requests any more, for a rollback at once.

    Raises:
        UsageError: The target cannot do it, or the settings do not fit the change.
    """
    if change.replicas < 1:
        raise UsageError("a deployment needs at least one replica", remedy="to end it: vllm-ci deploy stop CHANNEL")
    if change.scaling:
        steps: tuple[Step, ...] = (all_requests(change, name="scale"),)
    elif change.first:
        steps = start(change, change.replicas, able), all_requests(change, checks=True)
    else:
        steps = strategy.steps(change, able)
    name = "scale" if change.scaling else strategy.name
    made = Plan(strategy=name, change=change, steps=(*steps, *_ending(change, steps[-1], keep_s)))
    return made.checked(able, target)


def _ending(change: Change, last: Step, keep_s: float) -> Iterator[Step]:
    kept = last.replicas.get(change.old, 0) if change.old != change.new else 0
    if keep_s and kept:
        yield Step(name="keep the old one ready", replicas=last.replicas, route=to_new(change), hold_s=keep_s, live=True)
    yield Step(name="done", replicas={change.new: change.replicas}, route=to_new(change), live=True)


@dataclass(frozen=True, kw_only=True)
class BlueGreen:
    """All replicas of the new revision are started and checked, then all requests go there at once.

    Attributes:
        person: A person decides when it has passed the checks.
        watch_s: How long the analysis watches afterwards, in seconds; 0: not at all.
    """

    name: ClassVar[str] = "blue-green"
    person: bool = False
    watch_s: float = 0.0

    def steps(self, change: Change, able: TargetCapabilities) -> tuple[Step, ...]:
        """Start, then all requests."""
        started = start(change, change.replicas, able, person=self.person)
        return started, all_requests(change, hold_s=self.watch_s, checks=True)


@dataclass(frozen=True, kw_only=True)
class Switch:
    """All requests at once, without checks: for a rollback to what served before."""

    name: ClassVar[str] = "rollback"

    def steps(self, change: Change, able: TargetCapabilities) -> tuple[Step, ...]:  # noqa: ARG002
        """One."""
        return (all_requests(change),)


@dataclass(frozen=True, kw_only=True)
class CanaryStep:
    """A share of the requests.

    Attributes:
        weight: In percent, 1 to 100.
        hold_s: How long it is watched, in seconds.
        person: A person decides at its end.
    """

    weight: int
    hold_s: float = 60.0
    person: bool = False


@dataclass(frozen=True, kw_only=True)
class Canary:
    """The new revision gets more and more of the requests, and the analysis decides after each step.

    It has as many replicas as its share needs; the old one keeps all of its own, so that going back is one change of the route.

    Attributes:
        stages: Their weights rise.
        header: Value of the header that reaches the new revision from its start on, for people who want to; empty: none.
    """

    name: ClassVar[str] = "canary"
    stages: tuple[CanaryStep, ...]
    header: str = ""

    def steps(self, change: Change, able: TargetCapabilities) -> tuple[Step, ...]:
        """Start, a step for each share, and all requests.

        Raises:
            UsageError: The shares do not rise, or are none.
        """
        given = [each.weight for each in self.stages]
        if not given or sorted(set(given)) != given or given[0] < 1 or given[-1] > 100:
            raise UsageError(f"a canary's weights must rise from 1 to 100 %, not {given}", remedy="e.g. weights 5, 25, 50, 100")
        stages = self.stages if given[-1] == 100 else (*self.stages, CanaryStep(weight=100, hold_s=0.0))
        started = start(change, portion(change.replicas, given[0]), able, self.header)
        return started, *(self._step(each, change, able) for each in stages)

    def _step(self, stage: CanaryStep, change: Change, able: TargetCapabilities) -> Step:
        if stage.weight == 100:
            return replace(all_requests(change, hold_s=stage.hold_s, checks=True), person=stage.person)
        return Step(
            name=f"{stage.weight} %",
            replicas={change.old: change.old_replicas, change.new: portion(change.replicas, stage.weight)},
            route=Route(
                weights={change.old: 100 - stage.weight, change.new: stage.weight},
                headers=preview(change, able, self.header),
            ),
            hold_s=stage.hold_s,
            judged=bool(stage.hold_s),
            person=stage.person,
        )


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """The new revision gets copies of requests, whose answers nobody sees; then all requests at once.

    Attributes:
        percent: Share of the requests that are copied.
        hold_s: How long, in seconds.
        compare: Compare the answers to copies with those that users got.
        person: A person decides at its end.
        watch_s: How long the analysis watches when it gets all requests, in seconds; 0: not at all.
    """

    name: ClassVar[str] = "shadow"
    percent: int = 10
    hold_s: float = 300.0
    compare: bool = False
    person: bool = False
    watch_s: float = 0.0

    def steps(self, change: Change, able: TargetCapabilities) -> tuple[Step, ...]:
        """Start, copies, and all requests."""
        count = portion(change.replicas, self.percent)
        copies = Step(
            name=f"copies of {self.percent} %",
            replicas={change.old: change.old_replicas, change.new: count},
            route=Route(
                weights={change.old: 100},
                mirror=change.new,
                mirror_percent=self.percent,
                headers=preview(change, able),
            ),
            hold_s=self.hold_s,
            judged=True,
            compared=self.compare,
            person=self.person,
        )
        return start(change, count, able), copies, all_requests(change, hold_s=self.watch_s, checks=True)
