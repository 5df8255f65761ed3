"""Where releases go, who signs them, and what each channel requires."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from vllm_ci.domain.errors import ConfigError
from vllm_ci.evidence.bundle import Signer, Trusted
from vllm_ci.evidence.verify import Expected
from vllm_ci.registry.access import Access
from vllm_ci.registry.repository import Repository
from vllm_ci.registry.transfer import open_repository
from vllm_ci.release.ledger import KustomizeOverlay, Ledger
from vllm_ci.release.policy import Policy
from vllm_ci.release.record import Release


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A named place that releases go to.

    Attributes:
        name: ``staging``, ``production`` ...; also the tag that points at its release.
        policy: What it requires.
        overlay: Its kustomization in the ledger's branch.
        image: Name of the image whose entry is rewritten there.
    """

    name: str
    policy: Policy
    overlay: str
    image: str = "vllm"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything that the release commands need.

    Attributes:
        repository: ``host/path`` in a registry, or ``oci:FOLDER`` on this machine.
        subject: Name that statements and kustomizations call the image by; the repository, unless that is a folder.
        ledger: The history.
        channels: By name.
        signers: Who is trusted, by name.
        key: Returns the signer; called only when something has to be signed.
        access: How registries are reached.
    """

    repository: str
    subject: str
    ledger: Ledger
    channels: Mapping[str, Channel]
    signers: Mapping[str, Trusted]
    key: Callable[[], Signer]
    access: Access = field(default_factory=Access.from_environment)

    def channel(self, name: str) -> Channel:
        """A channel.

        Raises:
            ConfigError: There is no channel of that name.
        """
        if name not in self.channels:
            raise ConfigError(
                f"there is no channel {name}",
                why=f"the configuration has {', '.join(self.channels) or 'none'}",
                remedy="name one of those, or add it under release.channels",
            )
        return self.channels[name]

    def open(self) -> AbstractContextManager[Repository]:
        """The repository, for as long as the context lasts."""
        return open_repository(self.repository, self.access)

    def expected(self, digest: str, commit: str = "") -> Expected:
        """What statements about an image must be about."""
        return Expected(digest=digest, commit=commit, repositories=(self.subject,))

    def overlay(self, channel: Channel, release: Release) -> KustomizeOverlay:
        """The change of a channel's kustomization for a release."""
        fields = {"newName": self.subject, "newTag": release.tag, "digest": release.digest}
        return KustomizeOverlay(path=channel.overlay, name=channel.image, fields=fields)
