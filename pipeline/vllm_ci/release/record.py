"""A release: the record that a channel moved to a digest, because of evidence. Schema: ``schema/release.schema.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, with_config

from vllm_ci.release import record_file

FORMAT = "vllm-ci/release/v1"
_STRICT = ConfigDict(extra="forbid")
Action = Literal["publish", "promote", "rollback", "repair", "deploy"]
# A repair has another name in records of earlier versions.
_Named = Annotated[Action, BeforeValidator(lambda name: "repair" if name == "mend" else name)]


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class Release:
    """A released image.

    Attributes:
        commit: 40-hex id.
        digest: Of the image.
        repository: Where the image is.
        tag: The commit's tag.
        model: Model that it was tested with (``NAME@DIGEST``); empty when that is not one of the models' repository.
    """

    commit: str
    digest: str
    repository: str
    tag: str
    model: str = ""


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule of the policy and what it got."""

    rule: str
    expected: str
    got: str


@with_config(_STRICT)
@dataclass(frozen=True, kw_only=True)
class Record:
    """One move of one channel; or, with the action ``deploy``, what serves for it from then on, which moves nothing.

    Attributes:
        number: Counts from 1, over all channels.
        at: When (RFC 3339, UTC).
        action: How.
        channel: Which channel.
        release: The release that it points to now; of a deployment, the one that serves now.
        previous: Where it stood, ``None`` for the first; of a deployment, what served before.
        source: For a promotion, the channel it came from; for a deployment, its id.
        policy: Hex sha256 of the policy that was evaluated.
        rules: What each rule expected and what was found.
        evidence: Digests of the attachments that decided.
        kustomization: The overlay's fields before they were rewritten; those that are not here were not there.
        by: Who (as git knows them).
        reason: Why, in the words of who did it.
        tool: Version of vllm-ci.
    """

    number: int
    at: str
    action: _Named
    channel: str
    release: Release
    previous: Release | None = None
    source: str = ""
    policy: str = ""
    rules: tuple[Rule, ...] = ()
    evidence: tuple[str, ...] = ()
    kustomization: Mapping[str, str] = field(default_factory=dict)
    by: str = ""
    reason: str = ""
    tool: str = ""

    @property
    def path(self) -> str:
        """Its file in the ledger."""
        return f"records/{self.number:06}.json"

    @property
    def summary(self) -> str:
        """One line."""
        return f"{self.action} {self.release.commit[:12]} to {self.channel}"

    def to_json(self) -> dict[str, Any]:
        """Plain data, with its format spelt out."""
        return record_file.plain(self, FORMAT)

    @property
    def content(self) -> bytes:
        """The file's bytes."""
        return record_file.text(self, FORMAT).encode()


_ADAPTER = TypeAdapter(Record)


def parse(content: bytes, name: str) -> Record:
    """A record from its file.

    Raises:
        ErroredError: It is not a record; without a readable ledger nothing can be decided.
    """
    return record_file.parse(content, name, FORMAT, _ADAPTER)


def schema() -> dict[str, Any]:
    """JSON Schema of a record's file."""
    found = _ADAPTER.json_schema()
    properties = {"format": {"const": FORMAT, "type": "string"}, **found["properties"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A release of vllm-ci",
        **found,
        "properties": properties,
        "required": ["format", *found["required"]],
    }


if __name__ == "__main__":
    import sys

    sys.stdout.write(json.dumps(schema(), indent=2) + "\n")
