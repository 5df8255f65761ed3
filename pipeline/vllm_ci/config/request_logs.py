"""Request logs of the gateways of a project's channels, on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vllm_ci.config import deployments, releases
from vllm_ci.config.load import Loaded
from vllm_ci.datasets.record import Source
from vllm_ci.datasets.request_log import RequestLog
from vllm_ci.system import scratch
from vllm_ci.targets.local import recorded
from vllm_ci.targets.local.recording import LOG_FOLDER


def folder(loaded: Loaded, channel: str) -> Path:
    """Folder of the target of a channel.

    Raises:
        ConfigError: There is no such channel.
    """
    return deployments.of(releases.of(loaded), channel).folder / "target"


@contextmanager
def sources(loaded: Loaded, channels: Sequence[str]) -> Iterator[list[Source]]:
    """Rows of keys that consent, copied for the duration of the context: the gateway goes on recording meanwhile.

    Raises:
        ConfigError: There is no such channel.
        UsageError: A log has no rows.
    """
    with ExitStack() as held:
        place = held.enter_context(scratch.folder("requests-"))
        found = []
        for channel in dict.fromkeys(channels):
            path = place / f"requests-{channel}.jsonl"
            recorded.copy(folder(loaded, channel), path, channel=channel)
            found.append(Source(path=path))
        yield found


def logs(loaded: Loaded) -> dict[str, RequestLog]:
    """The logs of all channels, by channel."""
    return {
        channel: RequestLog(folder=deployments.place(loaded, channel).folder / "target" / LOG_FOLDER)
        for channel in loaded.config.release.channels
    }
