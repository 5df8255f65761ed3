"""Models in the repository: read, listed, compared, and checked file by file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from vllm_ci.domain.events import Emit, ignore, step
from vllm_ci.evidence.verify import Findings
from vllm_ci.models import artifact, evidence, history
from vllm_ci.models.artifact import Layer, Model
from vllm_ci.models.naming import ModelRef
from vllm_ci.models.record import ModelRecord
from vllm_ci.models.refusals import TamperedModelError
from vllm_ci.models.setup import ModelSetup
from vllm_ci.registry.errors import DigestError, NameUnknownError, NotFoundError
from vllm_ci.registry.repository import Repository
from vllm_ci.release.show import evidence_json

_AT_A_TIME = 4


@dataclass(frozen=True, kw_only=True)
class Known:
    """A version and what is known of it.

    Attributes:
        record: Its record.
        model: What it is.
        findings: What is attached to it.
        aliases: That point to it.
        problems: What is wrong with its files; not looked at unless asked.
    """

    record: ModelRecord
    model: Model
    findings: Findings
    aliases: tuple[str, ...]
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints."""
        return {
            "model": self.record.model,
            "version": f"v{self.record.version}",
            "digest": self.record.digest,
            "reference": f"{self.record.repository}@{self.record.digest}",
            "tag": self.record.tag,
            "added": self.record.at,
            "by": self.record.by,
            "aliases": list(self.aliases),
            "facts": self.model.facts,
            "files": [asdict(each) for each in self.model.layers],
            "size_bytes": self.model.size_bytes,
            "evidence": evidence_json(self.findings),
            "problems": list(self.problems),
        }


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What differs between two versions.

    Attributes:
        added: Files that only the second has.
        removed: Files that only the first has.
        changed: Files that both have, with other bytes: the second's.
        same_bytes: Of the files that both share.
        facts: Facts that differ: name to the two values.
    """

    added: tuple[Layer, ...]
    removed: tuple[Layer, ...]
    changed: tuple[Layer, ...]
    same_bytes: int
    facts: dict[str, tuple[object, object]]

    @property
    def new_bytes(self) -> int:
        """What the second version costs when the first is there."""
        return sum(each.size for each in (*self.added, *self.changed))

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints."""
        return {**asdict(self), "new_bytes": self.new_bytes}


def read(repository: Repository, digest: str) -> Model:
    """A model's manifest and configuration, verified.

    Raises:
        NotFoundError: It is not there.
        DigestError: Their bytes are not what the digest says.
        UnsafeModelError: It is not a model, or not one that can be used.
    """
    manifest = repository.manifest(digest).require(digest, repository.name)
    return artifact.parse(manifest, repository.blob(manifest.json["config"]["digest"]))


def recorded(repository: Repository, record: ModelRecord) -> Model:
    """As :func:`read`, for a version of the ledger.

    Raises:
        NotFoundError: It is not there.
        TamperedModelError: Its manifest or configuration was altered.
        UnsafeModelError: It is not a model, or not one that can be used.
    """
    try:
        return read(repository, record.digest)
    except DigestError as error:
        raise TamperedModelError(
            f"{record.model}@v{record.version} was altered: its manifest or configuration",
            why=error.message,
            remedy="do not use it; add the model again from its source",
        ) from error


def look(setup: ModelSetup, ref: ModelRef, *, files: bool = False, now: datetime | None = None, emit: Emit = ignore) -> Known:
    """A version, what is attached to it, and its files checked if asked.

    Raises:
        UsageError: There is no such version.
        NotFoundError: It is not in the repository any more.
        TamperedModelError: Its manifest or configuration was altered, or is missing and the files were to be checked.
    """
    records = setup.ledger.read()
    record = history.find(records, ref)
    with setup.open() as repository:
        try:
            model = recorded(repository, record)
        except NotFoundError as error:
            if not files or isinstance(error, NameUnknownError):
                raise
            raise TamperedModelError(
                f"{record.model}@v{record.version} is missing in {repository.name}",
                why=error.message,
                remedy="add the model again from its source",
            ) from error
        problems: tuple[str, ...] = ()
        if files:
            with step(emit, "verify", f"{len(model.layers)} files") as done:
                problems = problems_of(repository, model)
                done(f"{model.size_bytes / 1e6:,.1f} MB read, {len(problems)} problems")
        found = evidence.findings(setup, repository, model, now=now or datetime.now(UTC))
    pointing = tuple(name for name, version in history.aliases(records, ref.name).items() if version == record.version)
    return Known(record=record, model=model, findings=found, aliases=pointing, problems=problems)


def compare(one: Model, other: Model) -> Difference:
    """What differs between two versions."""
    before, after = ({each.path: each for each in model.layers} for model in (one, other))
    keys = [*one.facts, *(key for key in other.facts if key not in one.facts)]
    return Difference(
        added=tuple(each for path, each in after.items() if path not in before),
        removed=tuple(each for path, each in before.items() if path not in after),
        changed=tuple(each for path, each in after.items() if path in before and each.digest != before[path].digest),
        same_bytes=sum(each.size for path, each in after.items() if path in before and each.digest == before[path].digest),
        facts={key: (one.facts.get(key), other.facts.get(key)) for key in keys if one.facts.get(key) != other.facts.get(key)},
    )


def problems_of(repository: Repository, model: Model) -> tuple[str, ...]:
    """What is wrong with the files of a model in the repository: each is read in full, several at a time."""
    with ThreadPoolExecutor(max_workers=_AT_A_TIME, thread_name_prefix="verify") as pool:
        return tuple(each for each in pool.map(lambda layer: _problem(repository, layer), model.layers) if each)


def require_unaltered(problems: Sequence[str], what: str) -> None:
    """Refuse a model with a file that was altered.

    Raises:
        TamperedModelError: There is one.
    """
    if problems:
        raise TamperedModelError(
            f"{what} was altered: {problems[0]}{f' (and {len(problems) - 1} more)' if len(problems) > 1 else ''}",
            why="the bytes in the repository are not those that were signed",
            remedy="do not use it; add the model again from its source",
        )


def _problem(repository: Repository, layer: Layer) -> str:
    digest, size = hashlib.sha256(), 0
    try:
        for piece in repository.read_blob(layer.digest):
            digest.update(piece)
            size += len(piece)
    except NotFoundError:
        return f"{layer.path} is missing"
    except DigestError as error:
        return f"{layer.path}: {error.message}"
    if f"sha256:{digest.hexdigest()}" != layer.digest:
        return f"{layer.path} has sha256:{digest.hexdigest()[:12]}, expected {layer.digest[:19]}"
    return "" if size == layer.size else f"{layer.path} has {size} bytes, expected {layer.size}"
