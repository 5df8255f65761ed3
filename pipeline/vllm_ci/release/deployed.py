"""Deploy: which release a channel is to serve, checked as strictly as a promotion; and the record of what serves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vllm_ci.domain.errors import FailedError, UsageError
from vllm_ci.domain.events import Emit, ignore, step
from vllm_ci.evidence.statement import timestamp
from vllm_ci.registry.repository import Repository
from vllm_ci.release import history
from vllm_ci.release.gathering import ask, now_or
from vllm_ci.release.ledger import LedgerEntry, State
from vllm_ci.release.policy import Decision
from vllm_ci.release.record import Record, Release
from vllm_ci.release.rescan import look
from vllm_ci.release.setup import Setup


@dataclass(frozen=True, kw_only=True)
class Deployable:
    """The release that a channel points to.

    Attributes:
        release: By digest.
        decision: Of the channel's policy.
        config: Of its image, as in the registry.
    """

    release: Release
    decision: Decision
    config: Mapping[str, Any]

    def require(self, channel: str) -> Deployable:
        """Itself, when the channel's policy allows it.

        Raises:
            FailedError: It does not, today.
        """
        if not self.decision.allowed:
            raise FailedError(
                f"{self.release.commit[:12]} may not serve for {channel}",
                why="; ".join(self.decision.reasons),
                remedy=f"vllm-ci policy explain {channel} {self.release.commit[:12]} shows every rule",
            )
        return self


def deployable(setup: Setup, channel_name: str, *, now: datetime | None = None, emit: Emit = ignore) -> Deployable:
    """The release that a channel points to, with its evidence verified now.

    Raises:
        UsageError: Nothing was ever released to the channel.
        Refusal: The image was altered.
        RegistryError: The registry broke or refused, or the image is gone.
        ErroredError: The ledger cannot be reached.
    """
    present = now_or(now)
    channel = setup.channel(channel_name)
    with setup.open() as repository:
        state = setup.ledger.read()
        head = history.current(state.records, channel_name)
        if head is None:
            raise UsageError(f"nothing was ever released to {channel_name}", remedy=f"vllm-ci publish --channel {channel_name}")
        with step(emit, "verify", head.release.commit[:12]):
            looked = look(setup, repository, head.release, now=present)
        decision = ask(channel, state, head.release, looked.findings, now=present)
        return Deployable(release=head.release, decision=decision, config=_config(repository, head.release.digest))


def config_of(setup: Setup, release: Release) -> Mapping[str, Any]:
    """OCI configuration of a release's image.

    Raises:
        RegistryError: The registry broke or refused, or the image is gone.
    """
    with setup.open() as repository:
        return _config(repository, release.digest)


def _config(repository: Repository, digest: str) -> Mapping[str, Any]:
    """The configuration of an image; of one for several platforms, that of the first."""
    found = repository.manifest(digest)
    if found.is_index:
        return _config(repository, found.manifests[0].digest)
    config: Mapping[str, Any] = json.loads(repository.blob(found.json["config"]["digest"]))
    return config


def record_deployed(
    setup: Setup, channel: str, release: Release, *, deployment: str, reason: str, now: datetime | None = None
) -> Record | None:
    """Record that a release serves for a channel; repeating it for the same deployment records nothing.

    Args:
        setup: Where the ledger is.
        channel: Which channel.
        release: What serves now.
        deployment: Id of the deployment.
        reason: How it came to that, in words.
        now: The present.

    Raises:
        ErroredError: The ledger cannot be reached.
    """

    def entry(newest: State) -> LedgerEntry | None:
        last = history.deployed(newest.records, channel)
        if last and (last.source, last.release) == (deployment, release):
            return None
        made = Record(
            number=len(newest.records) + 1,
            at=timestamp(now_or(now)),
            action="deploy",
            channel=channel,
            release=release,
            previous=last.release if last else None,
            source=deployment,
            reason=reason,
        )
        return LedgerEntry(record=made)

    return setup.ledger.append(entry)[1]
