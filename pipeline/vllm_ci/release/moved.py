"""The result of publish, promote or rollback."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_ci.domain.errors import FailedError
from vllm_ci.release.policy import Decision
from vllm_ci.release.record import Action, Release


@dataclass(frozen=True, kw_only=True)
class Moved:
    """The result of publish, promote or rollback.

    Attributes:
        action: What was requested.
        channel: Which channel.
        release: The release it points to now (or would, or may not).
        previous: The release it pointed to before.
        decision: The result of its policy.
        changed: The channel was changed (or would be, in a dry run).
        done: What was done, or would be, in order.
        dry_run: Nothing was done.
    """

    action: Action
    channel: str
    release: Release
    previous: Release | None
    decision: Decision
    changed: bool
    done: tuple[str, ...] = ()
    dry_run: bool = False

    def require(self) -> Moved:
        """Itself, when the policy allowed it.

        Raises:
            FailedError: It did not.
        """
        if not self.decision.allowed:
            raise FailedError(
                f"{self.release.commit[:12]} may not go to {self.channel}",
                why="; ".join(self.decision.reasons),
                remedy="vllm-ci policy explain shows every rule",
            )
        return self

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints."""
        return {
            "action": self.action,
            "channel": self.channel,
            "release": {
                "commit": self.release.commit,
                "digest": self.release.digest,
                "reference": f"{self.release.repository}@{self.release.digest}",
                "tag": self.release.tag,
                "model": self.release.model or None,
                "previous": self.previous.digest if self.previous else None,
            },
            "decision": {"allowed": self.decision.allowed, "reasons": list(self.decision.reasons)},
            "changed": self.changed,
            "dry_run": self.dry_run,
            "steps": list(self.done),
        }
