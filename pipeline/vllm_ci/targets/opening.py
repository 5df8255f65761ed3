"""What a target is opened with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vllm_ci.config.deploy import DeploySettings
from vllm_ci.release.setup import Setup


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a target is opened with.

    Attributes:
        deployment: Project and channel as a DNS label; two of them on one machine or cluster do not see each other.
        state: Folder of this deployment on this machine; a target keeps its own files in ``state / "target"``.
        settings: Of the channel.
        setup: The registry that images are pulled from.
    """

    deployment: str
    state: Path
    settings: DeploySettings
    setup: Setup
