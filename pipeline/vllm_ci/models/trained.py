"""Which models were trained on which data, by what their provenance says."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vllm_ci.evidence.statement import PROVENANCE, Statement
from vllm_ci.models import evidence, history, reading
from vllm_ci.models.record import ModelRecord
from vllm_ci.models.refusals import UnsafeModelError
from vllm_ci.models.setup import ModelSetup
from vllm_ci.registry.errors import DigestError, NotFoundError


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A version of a model, and data that it was trained on.

    Attributes:
        model: Its name.
        version: Its number.
        digest: Its digest.
        aliases: That point to it.
        data: Digests of the data, by name.
        problem: Why the data is not known; empty when it is.
    """

    model: str
    version: int
    digest: str
    aliases: tuple[str, ...]
    data: Mapping[str, str]
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        named = {"model": self.model, "version": f"v{self.version}", "digest": self.digest}
        return {**named, "aliases": list(self.aliases), "data": dict(self.data), "problem": self.problem}


def trained_on(setup: ModelSetup, digests: Collection[str]) -> list[Trained]:
    """Versions whose verified provenance names one of these digests as data, and those of which it is not known.

    Raises:
        RegistryError: The registry broke or refused.
    """
    records = setup.ledger.read()
    found: list[Trained] = []
    for record in (each for name in history.names(records) for each in history.versions(records, name)):
        try:
            made = _trained(setup, records, record)
        except (NotFoundError, DigestError, UnsafeModelError) as error:
            made = _named(records, record, {}, problem=error.message)
        if made.problem or set(made.data.values()) & set(digests):
            found.append(made)
    return found


def of(setup: ModelSetup, record: ModelRecord) -> Trained:
    """The data that one version was trained on; none where its provenance names none."""
    return _trained(setup, setup.ledger.read(), record)


def _trained(setup: ModelSetup, records: history.Records, record: ModelRecord) -> Trained:
    with setup.open() as repository:
        model = reading.read(repository, record.digest)
        known = evidence.findings(setup, repository, model, now=datetime.now(UTC))
    found = known.of(PROVENANCE)
    data = {name: digest for each in found for name, digest in _data(each.statement)}
    why = "; ".join(sorted({each.message for each in known.refused.values()})) or "nothing is attached to it"
    return _named(records, record, data, problem="" if found else f"no provenance of it is verified: {why}")


def _named(records: history.Records, record: ModelRecord, data: Mapping[str, str], *, problem: str) -> Trained:
    pointing = [name for name, version in history.aliases(records, record.model).items() if version == record.version]
    return Trained(
        model=record.model,
        version=record.version,
        digest=record.digest,
        aliases=tuple(pointing),
        data=data,
        problem=problem,
    )


def _data(statement: Statement) -> Iterator[tuple[str, str]]:
    definition = statement.predicate.get("buildDefinition")
    listed = definition.get("resolvedDependencies") if isinstance(definition, Mapping) else None
    for each in listed if isinstance(listed, list | tuple) else ():
        if isinstance(each, Mapping) and each.get("annotations") == {"role": "data"}:
            yield str(each.get("name")), f"sha256:{(each.get('digest') or {}).get('sha256')}"
