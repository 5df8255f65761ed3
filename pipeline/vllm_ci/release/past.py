"""History: what was released, newest first, and what each channel points to; read from the ledger alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm_ci.release import history
from vllm_ci.release.record import Record
from vllm_ci.release.setup import Setup


@dataclass(frozen=True, kw_only=True)
class Past:
    """What the ledger says.

    Attributes:
        records: Newest first.
        heads: The record that each channel points to; ``None`` for a channel that nothing was released to.
    """

    records: tuple[Record, ...]
    heads: Mapping[str, Record | None]

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints."""
        standing = {name: head.release.digest if head else None for name, head in self.heads.items()}
        return {"channels": standing, "records": [each.to_json() for each in self.records]}


def past(setup: Setup, channel: str = "") -> Past:
    """What was released to a channel, or to all of them.

    Raises:
        ConfigError: There is no such channel.
        ErroredError: The ledger cannot be reached.
    """
    if channel:
        setup.channel(channel)
    records = setup.ledger.read().records
    names = [channel] if channel else [*setup.channels, *history.channels(records)]
    return Past(
        records=tuple(each for each in reversed(records) if channel in ("", each.channel)),
        heads={name: history.current(records, name) for name in names},
    )
