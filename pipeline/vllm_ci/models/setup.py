"""Where models are kept, who signs them, and what each alias requires."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from vllm_ci.domain.errors import ConfigError
from vllm_ci.evidence.bundle import Signer, Trusted
from vllm_ci.models.ledger import ModelLedger
from vllm_ci.models.policy import AliasPolicy
from vllm_ci.registry.access import Access
from vllm_ci.registry.repository import Repository
from vllm_ci.registry.transfer import open_repository


@dataclass(frozen=True, kw_only=True)
class ModelSetup:
    """Everything that the model commands need.

    Attributes:
        repository: ``host/path`` in a registry, or ``oci:FOLDER`` on this machine; that of the images.
        subject: Name that statements call it by; the repository, unless that is a folder.
        ledger: The records of models.
        aliases: What each alias requires, by name.
        signers: Who is trusted, by name.
        key: Returns the signer; called only when something has to be signed.
        access: How registries are reached.
    """

    repository: str
    subject: str
    ledger: ModelLedger
    aliases: Mapping[str, AliasPolicy]
    signers: Mapping[str, Trusted]
    key: Callable[[], Signer]
    access: Access = field(default_factory=Access.from_environment)

    def policy(self, alias: str) -> AliasPolicy:
        """What an alias requires.

        Raises:
            ConfigError: There is no such alias.
        """
        if alias not in self.aliases:
            raise ConfigError(
                f"there is no alias {alias}",
                why=f"the configuration has {', '.join(self.aliases) or 'none'}",
                remedy="name one of those, or add it under models.aliases",
            )
        return self.aliases[alias]

    def open(self) -> AbstractContextManager[Repository]:
        """The repository, for as long as the context lasts."""
        return open_repository(self.repository, self.access)
