"""Do ledger, registry and kustomizations agree? The ledger is right; differences are listed, and repaired on request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from vllm_ci.domain.events import ignore
from vllm_ci.registry.errors import NotFoundError
from vllm_ci.registry.repository import Repository
from vllm_ci.release import history, kustomization
from vllm_ci.release.gathering import now_or
from vllm_ci.release.ledger import LedgerEntry, State
from vllm_ci.release.moving import LaggingTagError, set_channel_tag
from vllm_ci.release.record import Record
from vllm_ci.release.setup import Channel, Setup


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A difference from what the ledger says.

    Attributes:
        channel: Which channel.
        what: ``image``, ``commit tag``, ``channel tag`` or ``kustomization``.
        expected: What the ledger says.
        got: What is there.
        repaired: It was repaired now.
        remedy: What a person has to do where this command cannot repair it.
    """

    channel: str
    what: str
    expected: str
    got: str
    repaired: bool = False
    remedy: str = ""


def to_json(found: Sequence[Disagreement]) -> dict[str, object]:
    """What ``--json`` prints."""
    return {"agree": all(each.repaired for each in found), "disagreements": [asdict(each) for each in found]}


def check(setup: Setup, *, repair: bool = False, now: datetime | None = None) -> tuple[Disagreement, ...]:
    """All disagreements, of all channels that were ever released to.

    Args:
        setup: Where to look.
        repair: Repair what can be repaired: tags and kustomizations.
        now: The present.

    Raises:
        RegistryError: The registry broke or refused.
        ErroredError: The ledger cannot be read.
    """
    found: list[Disagreement] = []
    with setup.open() as repository:
        state = setup.ledger.read()
        released = history.channels(state.records)
        state = setup.ledger.read(each.overlay for name, each in setup.channels.items() if name in released)
        for name in history.channels(state.records):
            head = history.current(state.records, name)
            channel = setup.channels.get(name)
            if head is None:
                continue
            found += _image(repository, head, repair=repair)
            if channel and channel.overlay in state.overlays:
                found += _overlay(setup, channel, state, head, repair=repair, now=now_or(now))
            found += _channel_tag(setup, repository, head, repair=repair)
    return tuple(found)


def _image(repository: Repository, head: Record, *, repair: bool) -> list[Disagreement]:
    release = head.release
    try:
        manifest = repository.manifest(release.digest)
    except NotFoundError:
        remedy = f"push it again from where it was built, or roll back: vllm-ci rollback {head.channel}"
        return [
            Disagreement(channel=head.channel, what="image", expected=release.digest, got="not in the registry", remedy=remedy)
        ]
    tagged = repository.resolve(release.tag)
    if tagged == release.digest:
        return []
    if tagged is None and repair:
        repository.put_manifest(manifest, tag=release.tag)
    # A person or another tool moved this commit's tag: it is never overwritten.
    return [
        Disagreement(
            channel=head.channel,
            what="commit tag",
            expected=f"{release.tag} at {release.digest}",
            got=tagged or "no such tag",
            repaired=repair and tagged is None,
            remedy="" if tagged is None else f"find out who moved tag {release.tag}; the release itself is not affected",
        )
    ]


def _channel_tag(setup: Setup, repository: Repository, head: Record, *, repair: bool) -> list[Disagreement]:
    tagged = repository.resolve(head.channel)
    if tagged == head.release.digest:
        return []
    remedy = ""
    if repair and repository.resolve(head.release.digest):
        try:
            set_channel_tag(setup, repository, head.channel, ignore)
        except LaggingTagError as error:
            remedy = error.remedy
    repaired = repository.resolve(head.channel) == head.release.digest
    return [
        Disagreement(
            channel=head.channel,
            what="channel tag",
            expected=head.release.digest,
            got=tagged or "no such tag",
            repaired=repaired,
            remedy=remedy,
        )
    ]


def _overlay(setup: Setup, channel: Channel, state: State, head: Record, *, repair: bool, now: datetime) -> list[Disagreement]:
    overlay = setup.overlay(channel, head.release)
    file = state.overlays[overlay.path]
    found = kustomization.read(file.text or "", overlay.name, path=file.path)
    if found == dict(overlay.fields):
        return []

    def entry(newest: State) -> LedgerEntry | None:
        standing = history.current(newest.records, channel.name)
        if standing is None or standing.release != head.release:
            return None
        made = Record(
            number=len(newest.records) + 1,
            at=now.isoformat(timespec="seconds"),
            action="repair",
            channel=channel.name,
            release=head.release,
            previous=head.release,
            policy=head.policy,
            evidence=head.evidence,
            reason="the kustomization differed from the ledger",
        )
        return LedgerEntry(record=made, overlay=overlay)

    written = setup.ledger.append(entry)[1] if repair else None
    got = ", ".join(f"{key} {value}" for key, value in found.items()) or "no entry"
    expected = ", ".join(f"{key} {value}" for key, value in overlay.fields.items())
    return [Disagreement(channel=channel.name, what="kustomization", expected=expected, got=got, repaired=written is not None)]
