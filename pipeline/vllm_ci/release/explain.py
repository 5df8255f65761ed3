"""Policy explain: every rule of a channel, what it expects, and what was found for a released image."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from vllm_ci.release import gathering, policy
from vllm_ci.release.policy import Decision
from vllm_ci.release.record import Release
from vllm_ci.release.remarks import remarks
from vllm_ci.release.setup import Setup
from vllm_ci.release.show import show


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A channel's policy.

    Attributes:
        channel: Its name.
        policy: Digest of the policy.
        expected: Rules and what each expects.
        remarks: Warnings about the policy itself.
        release: The release that was evaluated, ``None`` for none.
        decision: The result for that release.
    """

    channel: str
    policy: str
    expected: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]
    release: Release | None = None
    decision: Decision | None = None

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints."""
        found: dict[str, object] = {"channel": self.channel, "policy": self.policy}
        if self.decision is None:
            found["rules"] = [{"rule": rule, "expected": expected} for rule, expected in self.expected]
        else:
            found["allowed"] = self.decision.allowed
            found["rules"] = [
                {"rule": each.rule, "expected": each.expected, "got": each.got, "ok": each.ok} for each in self.decision.rules
            ]
        return {**found, "remarks": list(self.remarks)}


def explain(setup: Setup, channel: str, commit: str = "", *, now: datetime | None = None) -> Explained:
    """The policy of a channel, and its result for a released commit (or tag, or digest).

    Raises:
        ConfigError: There is no such channel.
        UsageError: The commit was never released.
        RegistryError: The registry broke or refused.
    """
    asked = setup.channel(channel)
    present = gathering.now_or(now)
    found = Explained(
        channel=channel,
        policy=asked.policy.digest,
        expected=tuple(policy.expectations(asked.policy)),
        remarks=remarks(setup, channel, now=present),
    )
    if not commit:
        return found
    shown = show(setup, commit)[0]
    decision = gathering.ask(asked, setup.ledger.read(), shown.release, shown.findings, now=present)
    return Explained(**{**vars(found), "release": shown.release, "decision": decision})
