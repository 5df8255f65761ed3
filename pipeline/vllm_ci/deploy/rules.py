"""What decides about the steps of a deployment, and what is told of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from vllm_ci.deploy.analysis import Analysis, Outcome
from vllm_ci.deploy.deployment import Deployment
from vllm_ci.deploy.plan import Checks
from vllm_ci.deploy.target import Current
from vllm_ci.domain.events import Emit, ignore


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Result of the checks that a user configured.

    Attributes:
        outcome: Inconclusive lets a person decide.
        reason: What failed.
    """

    outcome: Outcome
    reason: str = ""


async def no_checks(kind: Checks, current: Current, revision: str) -> Checked:  # noqa: ARG001 - it is one of several
    """Nothing is configured, so nothing fails."""
    return Checked(outcome=Outcome.SUCCESSFUL)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What decides about steps, and what is told of them.

    Attributes:
        analysis: Of steps that are watched.
        check: Runs the configured checks of a kind against a revision.
        record: Writes what serves now to the ledger; called once, and again when a driver was killed before it was noted.
        waits: Wait for a person at a step that needs one, instead of ending.
        clock: Seconds since 1970.
        emit: Told of each step.
    """

    analysis: Analysis
    check: Callable[[Checks, Current, str], Awaitable[Checked]] = no_checks
    record: Callable[[Deployment], None] = lambda _: None
    waits: bool = False
    clock: Callable[[], float] = lambda: datetime.now(UTC).timestamp()
    emit: Emit = ignore
