"""Strategies: how a new revision takes the place of the old one. Pure: settings and a change give a plan.

Terms and defaults are those of Argo Rollouts and Flagger where they have them; what is left out stands in
``docs/decisions/live-traffic.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from vllm_ci.deploy.plan import PREVIEW, Change, Plan, Step, portion, shares
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
        steps: tuple[Step, ...] = (_all(change, name="scale"),)
    elif change.first:
        steps = _start(change, change.replicas, able), _all(change, checks=True)
    else:
        steps = strategy.steps(change, able)
    name = "scale" if change.scaling else strategy.name
    made = Plan(strategy=name, change=change, steps=(*steps, *_ending(change, steps[-1], keep_s)))
    return made.checked(able, target)


def _ending(change: Change, last: Step, keep_s: float) -> Iterator[Step]:
    kept = last.replicas.get(change.old, 0) if change.old != change.new else 0
    if keep_s and kept:
        yield Step(name="keep the old one ready", replicas=last.replicas, route=_new(change), hold_s=keep_s, live=True)
    yield Step(name="done", replicas={change.new: change.replicas}, route=_new(change), live=True)


def _new(change: Change) -> Route:
    return Route(weights={change.new: 100})


def _preview(change: Change, able: TargetCapabilities, *more: str) -> dict[str, str]:
    """Headers that reach the new revision: the preview, where a target has headers, and those that a user asked for."""
    return dict.fromkeys([*([PREVIEW] if able.headers else []), *filter(None, more)], change.new)


def _start(change: Change, replicas: int, able: TargetCapabilities, *more: str, person: bool = False) -> Step:
    """Replicas of the new revision run, and no user reaches them."""
    weights = {change.old: 100} if change.old else {}
    running = {change.old: change.old_replicas} if change.old else {}
    return Step(
        name="start",
        replicas={**running, change.new: replicas},
        route=Route(weights=weights, headers=_preview(change, able, *more)),
        checks="before",
        person=person,
    )


def _all(change: Change, *, name: str = "100 %", hold_s: float = 0.0, checks: bool = False) -> Step:
    """The new revision gets all requests; all replicas of the old one still run."""
    old = {change.old: change.old_replicas} if change.old and not change.scaling else {}
    return Step(
        name=name,
        replicas={**old, change.new: change.replicas},
        route=_new(change),
        hold_s=hold_s,
        judged=bool(hold_s),
        checks="after" if checks else "",
    )


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
        started = _start(change, change.replicas, able, person=self.person)
        return started, _all(change, hold_s=self.watch_s, checks=True)


@dataclass(frozen=True, kw_only=True)
class Switch:
    """All requests at once, without checks: for a rollback to what served before."""

    name: ClassVar[str] = "rollback"

    def steps(self, change: Change, able: TargetCapabilities) -> tuple[Step, ...]:  # noqa: ARG002
        """One."""
        return (_all(change),)


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
        started = _start(change, portion(change.replicas, given[0]), able, self.header)
        return started, *(self._step(each, change, able) for each in stages)

    def _step(self, stage: CanaryStep, change: Change, able: TargetCapabilities) -> Step:
        if stage.weight == 100:
            return replace(_all(change, hold_s=stage.hold_s, checks=True), person=stage.person)
        return Step(
            name=f"{stage.weight} %",
            replicas={change.old: change.old_replicas, change.new: portion(change.replicas, stage.weight)},
            route=Route(
                weights={change.old: 100 - stage.weight, change.new: stage.weight},
                headers=_preview(change, able, self.header),
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
        person: A person decides at its end.
        watch_s: How long the analysis watches when it gets all requests, in seconds; 0: not at all.
    """

    name: ClassVar[str] = "shadow"
    percent: int = 10
    hold_s: float = 300.0
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
                headers=_preview(change, able),
            ),
            hold_s=self.hold_s,
            judged=True,
            person=self.person,
        )
        return _start(change, count, able), copies, _all(change, hold_s=self.watch_s, checks=True)


@dataclass(frozen=True, kw_only=True)
class Rolling:
    """Replicas are replaced a few at a time; requests are shared by their numbers. Needs the least memory, goes back slowest.

    Attributes:
        max_surge: Replicas beyond the wanted number.
        max_unavailable: Replicas that may be missing meanwhile.
        hold_s: How long each step is watched, in seconds; 0: not at all.
    """

    name: ClassVar[str] = "rolling"
    max_surge: int = 1
    max_unavailable: int = 0
    hold_s: float = 0.0

    def steps(self, change: Change, able: TargetCapabilities) -> tuple[Step, ...]:
        """A step for each batch.

        Raises:
            UsageError: No replica may be added or missing, or none would be left; or a replica's share cannot be expressed.
        """
        self._check(change, able)
        old, new = self._without_routing(change)
        steps = list(self._starting(change, old, new, able))
        while (old, new) != (0, change.replicas):
            new = min(change.replicas, max(new, self._most(change) - old))
            old = max(0, min(old, self._least(change) - new))
            steps.append(self._state(change, old, new, able))
        return *steps[:-1], replace(steps[-1], name="100 %", checks="after")

    def _most(self, change: Change) -> int:
        return max(change.old_replicas, change.replicas) + self.max_surge

    def _least(self, change: Change) -> int:
        return min(change.old_replicas, change.replicas) - self.max_unavailable

    def _without_routing(self, change: Change) -> tuple[int, int]:
        """Replicas of both when the first new ones have started and get no requests yet."""
        old = change.old_replicas if self.max_surge else max(self._least(change), change.old_replicas - self.max_unavailable)
        return old, min(change.replicas, self._most(change) - old)

    def _starting(self, change: Change, old: int, new: int, able: TargetCapabilities) -> Iterator[Step]:
        if old < change.old_replicas:
            yield Step(name="make room", replicas={change.old: old}, route=Route(weights={change.old: 100}))
        yield replace(_start(change, new, able), replicas={change.old: old, change.new: new})

    def _state(self, change: Change, old: int, new: int, able: TargetCapabilities) -> Step:
        counts = {change.old: old, change.new: new}
        return Step(
            name=f"{new} of {change.replicas}",
            replicas={name: count for name, count in counts.items() if count},
            route=Route(
                weights=shares(counts, granularity=max(able.weights, 1)), headers=_preview(change, able) if old else {}
            ),
            hold_s=self.hold_s,
            judged=bool(self.hold_s),
        )

    def _check(self, change: Change, able: TargetCapabilities) -> None:
        if self.max_surge + self.max_unavailable < 1:
            raise UsageError("max_surge and max_unavailable are both 0", remedy="set max_surge to 1, or more")
        if self._least(change) < 1:
            raise UsageError(
                f"with max_unavailable {self.max_unavailable} no replica might be left to answer",
                why=f"{change.old_replicas} run now, {change.replicas} are wanted",
                remedy="set max_unavailable lower and max_surge to 1, or raise replicas",
            )
        if able.weights and able.weights * self._most(change) > 100:
            raise UsageError(
                f"the share of one of {self._most(change)} replicas is below the smallest step of {able.weights} %",
                remedy="choose strategy canary or blue-green",
            )
