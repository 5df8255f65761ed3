"""Configuration of a stage."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from vllm_ci.domain.performance import PerformanceSpec

SEVERITIES = ("low", "medium", "high", "critical")
BUILT_IN = ("unit", "integration", "streaming", "security", "grpc", "performance")
"""Names of the built-in stages, in the order in which they run."""
# Rows, steps and log files of a run have these names already.
_TAKEN = (
    "build",
    "unpack",
    "model",
    "server",
    "settings",
    "engine",
    "run",
    "pipeline",
    "interrupted",
    "tools",
    "machine",
    "baseline",
    "measure",
)
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")


def refusal_of_name(name: str) -> str:
    """Why a stage of the user's own cannot have this name; empty when it can."""
    if name in BUILT_IN:
        return f"{name} is the name of a built-in stage"
    if name in _TAKEN:
        return f"{name} is the name of a step of every run"
    if not _NAME.fullmatch(name):
        return "a stage's name has up to 40 lower-case letters, digits, `_` and `-`, and begins with a letter"
    return ""


@dataclass(frozen=True, kw_only=True)
class AcceptedFinding:
    """A security finding that is accepted until a date.

    Attributes:
        id: Stable id of the finding (``open-route:POST /invocations``).
        reason: Why it is accepted.
        until: Last day on which it is accepted; afterwards it fails the stage again.
        by_default: It is a default of this tool, so the user has nothing to remove when the finding does not occur.
    """

    id: str
    reason: str
    until: dt.date
    by_default: bool = False

    def covers(self, finding: str, severity: str, engine: str) -> bool:  # noqa: ARG002
        """Whether it is about this finding, on any day."""
        return finding == self.id

    def entry(self) -> dict[str, str]:
        """As in a configuration file."""
        return {"id": self.id, "reason": self.reason, "until": self.until.isoformat()}


@dataclass(frozen=True, kw_only=True)
class AcceptedKnown:
    """All findings that this tool knows of the server's version of an engine, accepted until a date.

    Attributes:
        known: The engine: ``vllm``.
        until: Last day on which they are accepted; afterwards they fail the stage again.
        reason: Why they are accepted.
        up_to: Highest severity that is accepted; a critical finding never is.
        by_default: It is a default of this tool, so the user has nothing to remove when a finding does not occur.
    """

    known: str
    until: dt.date
    reason: str = ""
    up_to: str = "high"
    by_default: bool = False

    def __post_init__(self) -> None:
        if self.up_to not in SEVERITIES or self.up_to == "critical":
            raise ValueError(f"up_to is one of {', '.join(SEVERITIES[:-1])}, not {self.up_to!r}")

    def covers(self, finding: str, severity: str, engine: str) -> bool:  # noqa: ARG002
        """Whether it is about this finding, on any day; ``engine`` is the one whose version is known to have it, if any."""
        return engine == self.known and SEVERITIES.index(severity) <= SEVERITIES.index(self.up_to)

    def entry(self) -> dict[str, str]:
        """As in a configuration file."""
        reason = {"reason": self.reason} if self.reason else {}
        return {"known": self.known, "up_to": self.up_to, **reason, "until": self.until.isoformat()}


Accepted = AcceptedFinding | AcceptedKnown


@dataclass(frozen=True, kw_only=True)
class ChangedRule:
    """Which of a fork's own tests to run for a change.

    Attributes:
        changed: Patterns of changed files (``vllm/entrypoints/**``); one match is enough.
        run: Test paths to run then, relative to the checkout.
    """

    changed: tuple[str, ...]
    run: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class OwnStage:
    """What makes a stage one of the user's own: a command, the name of an installed stage, or else tests (``StageSpec.paths``).

    Attributes:
        run: Command line; its exit code is the stage's one case.
        use: Name of an installed stage (entry point group ``vllm_ci.stages``).
        inside: It runs inside the image; otherwise in the tool's own environment.
        needs_server: It runs against the server.
        secrets: Names of variables handed through from the caller's environment.
    """

    run: tuple[str, ...] = ()
    use: str = ""
    inside: bool = False
    needs_server: bool = False
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """Configuration of one stage.

    Attributes:
        name: ``unit``, ``integration``, ``streaming``, ``security`` ...
        suite: Also run the cases that are part of this tool.
        paths: The user's own tests, relative to the checkout, run with the same fixtures.
        changed: Rules that add test paths depending on the changed files (a fork's own tests).
        promises: Minimum number of cases of the user's own tests; with fewer the stage is ``errored``.
        require: Capabilities whose absence fails the stage instead of skipping cases.
        min_share: Least share of the built-in cases that must run; with more of them skipped the stage is ``errored``.
        accept: Findings that do not fail the stage.
        fail_on: Lowest severity that fails the stage.
        budget_s: Time budget in seconds for our cases; to fit, they are made smaller and the ``deep`` ones are left out. 0 for
            no limit.
        timeout_s: Timeout in seconds for each of its programs.
        pytest_args: Further arguments for pytest (``-k`` expressions, a plugin's options).
        env: Environment for the tests.
        own: What it does, where it is none of :data:`BUILT_IN`.
        performance: How images are compared, where it is the stage ``performance``.
    """

    name: str
    suite: bool = True
    paths: tuple[str, ...] = ()
    changed: tuple[ChangedRule, ...] = ()
    promises: int = 1
    require: tuple[str, ...] = ()
    min_share: float = 0.1
    accept: tuple[Accepted, ...] = ()
    fail_on: str = "medium"
    budget_s: float = 90.0
    timeout_s: float = 1800.0
    pytest_args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    own: OwnStage | None = None
    performance: PerformanceSpec | None = None
