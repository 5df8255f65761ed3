"""Strategy ``rolling``. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from vllm_ci.deploy.plan import Change, Step, shares
from vllm_ci.deploy.steps import preview, start
from vllm_ci.deploy.target import Route, TargetCapabilities
from vllm_ci.domain.errors import UsageError


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
        yield replace(start(change, new, able), replicas={change.old: old, change.new: new})

    def _state(self, change: Change, old: int, new: int, able: TargetCapabilities) -> Step:
        counts = {change.old: old, change.new: new}
        return Step(
            name=f"{new} of {change.replicas}",
            replicas={name: count for name, count in counts.items() if count},
            route=Route(weights=shares(counts, granularity=max(able.weights, 1)), headers=preview(change, able) if old else {}),
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
