"""A plan: the states that a deployment goes through, one after the other, and the way back from each. Pure.

A step says what is to be true, not what is to be done: which replicas run, and how requests are shared. It is reached in a
fixed order, so that every revision that the route names is ready at any moment: replicas that are missing are started, then
requests are routed, then what is not needed any more is drained and stopped. Reaching it again changes nothing, so a deployment
that was interrupted goes on with the step that it was in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from vllm_ci.deploy.target import Current, Route, TargetCapabilities
from vllm_ci.domain.errors import UsageError

PREVIEW = "preview"
"""Value of the header by which checks reach a revision that no user reaches yet."""

Checks = Literal["", "before", "after"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is to change.

    Attributes:
        old: Name of the revision that serves now; empty when none does.
        old_replicas: Its replicas.
        new: Name of the revision that is to serve.
        replicas: Its replicas at the end.
    """

    old: str = ""
    old_replicas: int = 0
    new: str
    replicas: int

    @property
    def first(self) -> bool:
        """Nothing serves yet, so no request can be lost."""
        return not self.old

    @property
    def scaling(self) -> bool:
        """Only the number of replicas changes."""
        return self.old == self.new


@dataclass(frozen=True, kw_only=True)
class Step:
    """A state on the way.

    Attributes:
        name: What is shown of it.
        replicas: How many replicas of which revision run at its end; all others are drained and stopped.
        route: How requests are shared.
        hold_s: How long it is kept at least, in seconds.
        judged: The analysis decides at its end; going back at once when it fails earlier.
        compared: The answers to copies of requests are compared with those that users got.
        checks: Which of the configured checks must pass.
        person: A person decides at its end.
        live: The new revision is what is deployed from here on: nothing goes back by itself, and whoever wants the old one back
            rolls back.
    """

    name: str
    replicas: Mapping[str, int]
    route: Route
    hold_s: float = 0.0
    judged: bool = False
    compared: bool = False
    checks: Checks = ""
    person: bool = False
    live: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The way from one revision to another.

    Attributes:
        strategy: Its name.
        change: What it is for.
        steps: In order; the last has only the new revision.
    """

    strategy: str
    change: Change
    steps: tuple[Step, ...]

    def back(self, at: int) -> tuple[Step, ...]:
        """The way back from step ``at``, which need not have been reached whole.

        A revision that still has all its replicas gets all requests at once. Else the way back is the way there.

        Raises:
            UsageError: The step is live: there is nothing left to give up.
        """
        if self.steps[at].live:
            raise UsageError("the new release is live already", remedy="go back to the one before: vllm-ci rollback CHANNEL")
        old, whole = self.change.old, self.change.old_replicas
        if not old:
            return (Step(name="back", replicas={}, route=Route()),)
        between = [step for step in reversed(self.steps[:at]) if step.replicas.get(old, 0) < whole]
        return (
            *(Step(name=f"back: {step.name}", replicas=step.replicas, route=plain(step.route)) for step in between),
            Step(name="back", replicas={old: whole}, route=Route(weights={old: 100})),
        )

    def checked(self, able: TargetCapabilities, target: str) -> Plan:
        """Itself, when a target can do all of it.

        Raises:
            UsageError: It cannot; the message names the step and what is missing.
        """
        for step in self.steps:
            lack = _lack(step.route, able)
            if step.compared and not able.compares:
                lack = "it does not compare answers"
            if lack:
                raise UsageError(
                    f"target {target} cannot do the step `{step.name}` of strategy {self.strategy}: {lack}",
                    remedy="choose another strategy, or other settings of it",
                )
        return self


def _lack(route: Route, able: TargetCapabilities) -> str:
    shares = [share for share in route.weights.values() if share not in (0, 100)]
    if shares and not able.weights:
        return "it sends all requests to one revision"
    if any(share % able.weights for share in shares):
        return f"it shares requests in steps of {able.weights} %, not {' to '.join(f'{share} %' for share in shares)}"
    if route.mirror_percent and not able.mirror:
        return "it does not copy requests"
    if route.headers and not able.headers:
        return "it does not choose a revision by a header"
    return ""


def plain(route: Route) -> Route:
    """A route without copies and headers."""
    return Route(weights=route.weights)


def servable(route: Route, current: Current) -> Route:
    """A route without those revisions that no replica can answer for; their share goes to the others.

    A route that nobody could answer for at all is returned as it is: changing it would not help anybody.
    """
    alive = {name: share for name, share in route.weights.items() if share and current.ready(name)}
    if not alive:
        return route
    return replace(
        route,
        weights=shares(alive),
        mirror=route.mirror if current.ready(route.mirror) else "",
        mirror_percent=route.mirror_percent if current.ready(route.mirror) else 0,
        headers={value: name for value, name in route.headers.items() if current.ready(name)},
    )


def shares(parts: Mapping[str, int], *, granularity: int = 1) -> dict[str, int]:
    """Percentages in proportion to ``parts``, as multiples of ``granularity`` that sum to 100 (largest remainder)."""
    whole, units = sum(parts.values()), 100 // granularity
    exact = {name: units * part / whole for name, part in parts.items() if part}
    found = {name: math.floor(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda each: (found[each] - exact[each], each))[: units - sum(found.values())]:
        found[name] += 1
    return {name: unit * granularity for name, unit in found.items() if unit}


def portion(replicas: int, percent: int) -> int:
    """How many of ``replicas`` serve ``percent`` of the requests, one at least."""
    return max(1, -(-replicas * percent // 100))


def names(steps: tuple[Step, ...]) -> Iterator[str]:
    """What is shown of a plan, a line for each step."""
    for number, step in enumerate(steps, start=1):
        running = ", ".join(f"{count} of {name}" for name, count in step.replicas.items() if count) or "nothing runs"
        weights = ", ".join(f"{share} % to {name}" for name, share in step.route.weights.items() if share) or "no requests"
        mirrored = f", {step.route.mirror_percent} % copied to {step.route.mirror}" if step.route.mirror_percent else ""
        headers = "".join(f", header {value} to {name}" for value, name in step.route.headers.items())
        yield f"{number}. {step.name}: {running}; {weights}{mirrored}{headers}{_gates(step)}"


def _gates(step: Step) -> str:
    parts = [f"keep {step.hold_s:g} s"] if step.hold_s else []
    parts += [f"checks {step.checks}"] if step.checks else []
    parts += ["compare answers"] if step.compared else []
    parts += ["analysis"] if step.judged else []
    parts += ["a person decides"] if step.person else []
    return f"; then {', '.join(parts)}" if parts else ""
