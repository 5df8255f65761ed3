"""Plans which cases fit into the time budget, with which sizes and in which order. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vllm_ci.suites.speed import Speed
from vllm_ci.suites.work import CaseCost, Sizes

_LONG_S = 5.0
"""Cases that take longer than this run after the others."""
_OWN_S = 0.05
"""Time of a case in addition to the server's time."""
_STEPS = 20
_TOLERATED = 1.5
_ENOUGH_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """A case to plan.

    Attributes:
        name: Its id.
        work: Its requests to the server.
        deep: It may be left out to fit the budget; all other cases always run.
    """

    name: str
    work: CaseCost
    deep: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a run.

    Attributes:
        budget_s: Time budget of the suite in seconds; 0 for no limit.
        order: Names of all cases in order; those that are left out are last.
        sizes: Sizes of every case.
        estimates_s: Estimated seconds of every case at its size.
        left_out: Names of cases that do not fit.
        fraction: 1 when all cases run at full size, 0 when all run at their smallest size.
    """

    budget_s: float
    order: tuple[str, ...]
    sizes: Mapping[str, Sizes]
    estimates_s: Mapping[str, float]
    left_out: tuple[str, ...] = ()
    fraction: float = 1.0

    @property
    def estimate_s(self) -> float:
        """Estimated seconds of all cases that are not left out."""
        return sum(self.estimates_s.values()) - sum(self.estimates_s[name] for name in self.left_out)

    def why(self, name: str) -> str:
        """Skip reason of a case that is left out."""
        return f"left out for time: about {self.estimates_s[name]:.0f} s of a budget of {self.budget_s:.0f} s; run with --deep"


def make(loads: Sequence[Load], speed: Speed | None, budget_s: float) -> Plan:
    """Fit cases into a budget.

    If all cases fit at full size, they run at full size. Otherwise all cases that can be smaller are reduced by the same
    fraction. If that is not enough, ``deep`` cases are left out, the longest first. All other cases always run.

    Args:
        loads: Cases in the order in which they would run.
        speed: Speed of the server; if ``None`` (unknown), nothing is left out.
        budget_s: Time budget in seconds; 0 for no limit.
    """
    if speed is None:
        return _plan(loads, None, budget_s, 1.0)
    plan = _plan(loads, speed, budget_s, 1.0)
    if not budget_s or plan.estimate_s <= budget_s:
        return plan
    smallest = _plan(loads, speed, budget_s, 0.0)
    if smallest.estimate_s > budget_s:
        return _plan(loads, speed, budget_s, 0.0, _too_long(loads, smallest))
    fits, too_large = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (fits + too_large) / 2
        fits, too_large = (
            (middle, too_large) if _plan(loads, speed, budget_s, middle).estimate_s <= budget_s else (fits, middle)
        )
    return _plan(loads, speed, budget_s, fits)


def deviation(expected_s: float, elapsed_s: float) -> float | None:
    """Factor by which cases took longer than expected; ``None`` if it is uncertain, or too small for a new plan."""
    if elapsed_s < _ENOUGH_S or expected_s <= 0:
        return None
    factor = elapsed_s / expected_s
    return None if 1 / _TOLERATED < factor < _TOLERATED else factor


def _plan(loads: Sequence[Load], speed: Speed | None, budget_s: float, fraction: float, left_out: Iterable[str] = ()) -> Plan:
    sizes = {load.name: load.work.sizes(fraction) for load in loads}
    estimates = {load.name: _OWN_S + load.work.seconds(speed, sizes[load.name]) if speed is not None else 0.0 for load in loads}
    out = tuple(left_out)

    def place(name: str) -> tuple[bool, float]:
        return name in out, estimates[name] if estimates[name] > _LONG_S else 0.0

    order = tuple(sorted((load.name for load in loads), key=place))
    return Plan(budget_s=budget_s, order=order, sizes=sizes, estimates_s=estimates, left_out=out, fraction=fraction)


def _too_long(loads: Sequence[Load], plan: Plan) -> tuple[str, ...]:
    """``deep`` cases to leave out, the longest first, until the rest fits."""
    left_out: list[str] = []
    remaining_s = plan.estimate_s
    for load in sorted((load for load in loads if load.deep), key=lambda load: -plan.estimates_s[load.name]):
        if remaining_s <= plan.budget_s:
            break
        left_out.append(load.name)
        remaining_s -= plan.estimates_s[load.name]
    return tuple(left_out)
