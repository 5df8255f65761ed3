"""Where a channel is deployed: its name, its folder on this machine, and its settings."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from vllm_ci.config.deploy import DeploySettings
from vllm_ci.config.load import Loaded
from vllm_ci.config.releases import Releases
from vllm_ci.system.home import home

_LONGEST = 50
# Targets whose state any machine can see; what is deployed to others, only that machine knows.
_SHARED = ("kubernetes",)


@dataclass(frozen=True, kw_only=True)
class Place:
    """The deployment of a channel.

    Attributes:
        deployment: Its name, a DNS label.
        folder: Its folder on this machine.
        settings: Those of the channel.
    """

    deployment: str
    folder: Path
    settings: DeploySettings

    @property
    def known(self) -> bool:
        """Whether it was deployed from this machine."""
        return (self.folder / "deployment.json").exists()

    @property
    def shared(self) -> bool:
        """Whether any machine can see what runs."""
        return self.settings.target in _SHARED


def place(loaded: Loaded, channel: str) -> Place:
    """The deployment of a channel of this project.

    Two checkouts of a project on one machine have the same deployments: they are the project's, not the checkout's.
    """
    name = label(f"{loaded.name}-{channel}")
    return Place(deployment=name, folder=home() / "deploy" / name, settings=loaded.config.deploy.of(channel))


def of(found: Releases, channel: str) -> Place:
    """The same, of a channel that must exist.

    Raises:
        ConfigError: There is no such channel.
    """
    found.setup.channel(channel)
    return place(found.loaded, channel)


def label(name: str) -> str:
    """A DNS label; names that had to be changed get a hash, so that no two share one."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if plain == name and len(name) <= _LONGEST:
        return name
    return f"{plain[:_LONGEST].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
