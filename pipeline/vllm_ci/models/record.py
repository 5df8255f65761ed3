"""Records of models in the ledger: a version was added, an alias moved.

They lie beside the records of channels, in a folder of their own: commands for channels do not read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, with_config

from vllm_ci.release import record_file
from vllm_ci.release.record import Rule

FORMAT = "vllm-ci/model/v1"
FOLDER = "records/models"
_STRICT = ConfigDict(extra="forbid")


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """One event of one model.

    Attributes:
        number: Counts from 1, over all models.
        at: When (RFC 3339, UTC).
        action: ``add`` makes a version; ``alias`` and ``rollback`` move an alias to one.
        model: Name of the model.
        version: Number of the version, from 1.
        digest: Of the model's manifest.
        repository: Where the model is.
        alias: The alias that moved; empty for ``add``.
        previous: Version that it pointed to; 0 for none.
        policy: Hex sha256 of the policy that was evaluated.
        rules: What each rule expected and what was found.
        evidence: Digests of the attachments that decided.
        by: Who (as git knows them).
        reason: Why, in the words of who did it.
        tool: Version of vllm-ci.
    """

    number: int
    at: str
    action: Literal["add", "alias", "rollback"]
    model: str
    version: int
    digest: str
    repository: str
    alias: str = ""
    previous: int = 0
    policy: str = ""
    rules: tuple[Rule, ...] = ()
    evidence: tuple[str, ...] = ()
    by: str = ""
    reason: str = ""
    tool: str = ""

    @property
    def path(self) -> str:
        """Its file in the ledger."""
        return f"{FOLDER}/{self.number:06}.json"

    @property
    def summary(self) -> str:
        """One line."""
        if self.action == "add":
            return f"add model {self.model}@v{self.version}"
        return f"{self.action} {self.model}@{self.alias} to v{self.version}"

    @property
    def tag(self) -> str:
        """Tag of its version in the repository."""
        return tag(self.model, self.version)

    def to_json(self) -> dict[str, Any]:
        """Plain data, with its format spelt out."""
        return record_file.plain(self, FORMAT)

    @property
    def content(self) -> str:
        """The file's text."""
        return record_file.text(self, FORMAT)


_ADAPTER = TypeAdapter(ModelRecord)


def tag(model: str, version: int) -> str:
    """Tag of a version in the repository that the images are in as well."""
    return f"model-{model}-v{version}"


def parse(content: bytes, name: str) -> ModelRecord:
    """A record from its file.

    Raises:
        ErroredError: It is not a record; without a readable ledger nothing can be decided.
    """
    return record_file.parse(content, name, FORMAT, _ADAPTER)
