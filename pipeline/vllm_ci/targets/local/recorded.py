"""The request log of a deployment, for those that read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vllm_ci.datasets.request_log import RequestLog, Summary
from vllm_ci.domain.errors import UsageError
from vllm_ci.targets.local.keys import KEY_FILE, KeyFile
from vllm_ci.targets.local.recording import COUNTS, LOG_FOLDER, bounds
from vllm_ci.targets.local.state import Store


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What there is.

    Attributes:
        recording: The process that records runs.
        keys: What is kept, by key.
        dropped: Requests of keys that consent and were not recorded, by reason.
    """

    recording: bool
    keys: tuple[Summary, ...]
    dropped: Mapping[str, int]

    def to_json(self) -> dict[str, object]:
        """For ``--json``."""
        return {"recording": self.recording, "keys": [each.to_json() for each in self.keys], "dropped": dict(self.dropped)}


def state(folder: Path) -> Recorded:
    """What the request log of the target in ``folder`` holds."""
    log, found = RequestLog(folder=folder / LOG_FOLDER), Store(folder=folder).load()
    log.prune(bounds(found.settings), now=datetime.now(UTC))
    counts: dict[str, int] = {}
    with suppress(OSError, ValueError):
        counts = json.loads((log.folder / COUNTS).read_bytes())
    return Recorded(
        recording=found.settings.log_requests and found.recorder is not None and found.recorder.alive,
        keys=tuple(log.summaries()),
        dropped={name: count for name, count in counts.items() if name != "recorded"},
    )


def copy(folder: Path, into: Path, *, channel: str) -> int:
    """Write the rows of all keys that consent to a new file; their number.

    Args:
        folder: Of the target.
        into: The file.
        channel: For messages.

    Raises:
        UsageError: There are none.
    """
    consenting = KeyFile(path=folder / KEY_FILE).consents()
    log = RequestLog(folder=folder / LOG_FOLDER)
    log.prune(bounds(Store(folder=folder).load().settings), now=datetime.now(UTC))
    if count := log.copy(into, keys=consenting) if log.folder.is_dir() else 0:
        return count
    raise UsageError(
        f"the request log of {channel} has no rows",
        why="it is recorded where deploy.gateway.log_requests is true, and only of keys that consent"
        + ("" if consenting else ": none does"),
        remedy=f"see vllm-ci gateway requests {channel}, and give consent: vllm-ci gateway keys consent {channel} NAME",
    )
