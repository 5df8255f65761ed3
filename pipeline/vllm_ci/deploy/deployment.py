"""A deployment: from one revision to another, how far it got, and what was seen of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from vllm_ci.deploy.plan import Plan, Step
from vllm_ci.deploy.target import Current, Observation, Revision, Sample
from vllm_ci.release.record import Release

Phase = Literal["forward", "held", "back", "live", "returned"]
"""``held``: a person decides. ``live``: the new revision serves. ``returned``: what served before serves again."""


@dataclass(frozen=True, kw_only=True)
class Happened:
    """Something that happened.

    Attributes:
        at: When (RFC 3339, UTC).
        text: What.
        weights: Share of the requests by revision from then on.
    """

    at: str
    text: str
    weights: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A deployment.

    Attributes:
        id: Unique.
        channel: Which channel it is for.
        target: Name of the target.
        release: The release that is to serve.
        previous: The release that serves for the channel until then; ``None``: none, or not known.
        revision: How the release is served.
        revisions: The old and the new one, by name.
        plan: The way.
        phase: Where it is.
        at: Index of the step, in the plan or in the way back.
        turned_at: Index of the plan's step in which it went back.
        broken: It went back because servers of the new revision are dead.
        reason: Why it is held, or went back.
        since: When the present step was reached (seconds since 1970); 0: not yet.
        recorded: The ledger has it.
        requests: Requests of users that were observed.
        exposed: Of them, those that went to the new revision.
        harmed: Of those, the ones that failed.
        baseline: What was last seen of the old revision.
        happened: In order.
    """

    id: str
    channel: str
    target: str
    release: Release
    previous: Release | None
    revision: Revision
    revisions: Mapping[str, Revision]
    plan: Plan
    phase: Phase = "forward"
    at: int = 0
    turned_at: int = 0
    broken: bool = False
    reason: str = ""
    since: float = 0.0
    recorded: bool = False
    requests: int = 0
    exposed: int = 0
    harmed: int = 0
    baseline: Sample | None = None
    happened: tuple[Happened, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do."""
        return self.phase in ("live", "returned")

    @property
    def back(self) -> tuple[Step, ...]:
        """The way back from where it turned; straight to its end when the new revision is dead."""
        way = self.plan.back(self.turned_at)
        return way[-1:] if self.broken else way

    @property
    def step(self) -> Step:
        """The present step."""
        return self.back[self.at] if self.phase == "back" else self.plan.steps[self.at]

    @property
    def kept(self) -> bool:
        """Whether the new revision is live, and the old one is kept ready."""
        return self.phase == "forward" and self.step.live and self.at < len(self.plan.steps) - 1

    def turning(self, reason: str, *, broken: bool) -> Deployment:
        """The same, going back from the present step."""
        return replace(self, phase="back", turned_at=self.at, at=0, broken=broken, reason=reason, since=0.0)

    def having_seen(self, observation: Observation, step: Step) -> Deployment:
        """The same, with an observation counted; copies of requests are not requests of users."""
        new, old = self.plan.change.new, self.plan.change.old
        served = {name: each for name, each in observation.samples.items() if step.route.weights.get(name)}
        own = served.get(new, Sample())
        before = observation.samples.get(old)
        return replace(
            self,
            requests=self.requests + sum(each.requests for each in served.values()),
            exposed=self.exposed + own.requests,
            harmed=self.harmed + own.errors,
            baseline=before if before and before.requests else self.baseline,
        )

    @property
    def exposure(self) -> str:
        """What share of requests saw the new revision."""
        reached = any(each.weights.get(self.plan.change.new) for each in self.happened)
        if not self.requests:
            return "requests went to it and were not counted" if reached else "no request of a user reached it"
        if not self.exposed:
            return f"none of {self.requests} observed requests went to it"
        share = 100 * self.exposed / self.requests
        return (
            f"{self.exposed} of {self.requests} observed requests ({share:.2g} %) went to it, and {self.harmed} of them failed"
        )


def serving(current: Current) -> tuple[str, int]:
    """Name of the revision that gets most requests, and its wanted replicas; empty and 0 when none does."""
    weights = {name: share for name, share in current.route.weights.items() if share}
    if not weights:
        return "", 0
    name = max(weights, key=lambda each: (weights[each], each))
    return name, max(current.wanted.get(name, 0), current.ready(name), 1)
