"""Steps that several strategies have. Pure."""

from __future__ import annotations

from vllm_ci.deploy.plan import PREVIEW, Change, Step
from vllm_ci.deploy.target import Route, TargetCapabilities


def to_new(change: Change) -> Route:
    """All requests go to the new revision."""
    return Route(weights={change.new: 100})


def preview(change: Change, able: TargetCapabilities, *more: str) -> dict[str, str]:
    """Headers that reach the new revision: the preview, where a target has headers, and those that a user asked for."""
    return dict.fromkeys([*([PREVIEW] if able.headers else []), *filter(None, more)], change.new)


def start(change: Change, replicas: int, able: TargetCapabilities, *more: str, person: bool = False) -> Step:
    """Replicas of the new revision run, and no user reaches them."""
    weights = {change.old: 100} if change.old else {}
    running = {change.old: change.old_replicas} if change.old else {}
    return Step(
        name="start",
        replicas={**running, change.new: replicas},
        route=Route(weights=weights, headers=preview(change, able, *more)),
        checks="before",
        person=person,
    )


def all_requests(change: Change, *, name: str = "100 %", hold_s: float = 0.0, checks: bool = False) -> Step:
    """The new revision gets all requests; all replicas of the old one still run."""
    old = {change.old: change.old_replicas} if change.old and not change.scaling else {}
    return Step(
        name=name,
        replicas={**old, change.new: change.replicas},
        route=to_new(change),
        hold_s=hold_s,
        judged=bool(hold_s),
        checks="after" if checks else "",
    )
