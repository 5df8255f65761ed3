"""Which release each channel points to, and which it could roll back to: pure functions over the ledger's records."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from vllm_ci.release.record import Record, Release


def of(records: Sequence[Record], channel: str) -> tuple[Record, ...]:
    """The moves and repairs of a channel, oldest first; deployments move nothing."""
    return tuple(each for each in records if each.channel == channel and each.action != "deploy")


def deployed(records: Sequence[Record], channel: str) -> Record | None:
    """The record of what serves for a channel; ``None`` when nothing was ever deployed."""
    return next((each for each in reversed(records) if each.channel == channel and each.action == "deploy"), None)


def current(records: Sequence[Record], channel: str) -> Record | None:
    """The newest record of a channel."""
    return next(reversed(of(records, channel)), None)


def last_move(records: Sequence[Record], channel: str) -> Record | None:
    """The record of a channel's last move; repairs do not count."""
    return next((each for each in reversed(of(records, channel)) if each.action != "repair"), None)


def channels(records: Sequence[Record]) -> tuple[str, ...]:
    """All channels that were ever released to, sorted."""
    return tuple(sorted({each.channel for each in records}))


def earlier(records: Sequence[Record], channel: str) -> tuple[Release, ...]:
    """Releases that a channel could roll back to, newest first.

    A rollback removes the newer releases from this list: rolling back twice goes back two releases, not forth and back.
    """
    pile: list[Release] = []
    for record in of(records, channel):
        digests = [each.digest for each in pile]
        if record.action == "rollback" and record.release.digest in digests:
            pile = pile[: digests.index(record.release.digest) + 1]
        elif not digests or digests[-1] != record.release.digest:
            pile = [each for each in pile if each.digest != record.release.digest] + [record.release]
    return tuple(reversed(pile[:-1]))


def everything(records: Sequence[Record], channel: str) -> tuple[Release, ...]:
    """Every release that a channel ever pointed to, newest first, each once."""
    found = {each.release.digest: each.release for each in of(records, channel)}
    order = {each.release.digest: each.number for each in of(records, channel)}
    return tuple(sorted(found.values(), key=lambda each: -order[each.digest]))


def stays(records: Sequence[Record], digest: str, now: datetime) -> dict[str, timedelta]:
    """The longest time that each channel pointed to a digest."""
    found: dict[str, timedelta] = {}
    for channel in channels(records):
        mine = of(records, channel)
        begun: datetime | None = None
        for record, following in zip(mine, (*mine[1:], None), strict=True):
            if record.release.digest != digest:
                begun = None
                continue
            begun = begun or datetime.fromisoformat(record.at)
            ended = datetime.fromisoformat(following.at) if following else now
            found[channel] = max(found.get(channel, timedelta()), ended - begun)
    return found
