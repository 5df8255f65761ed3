"""Add a model: check its files, push them, sign, record a version. Adding the same files again changes nothing.

Order, so that a crash at any point leaves no version or a whole one, and running again completes it: files, manifest, evidence,
ledger, tag. The ledger decides which number a version has; its tag only points there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from vllm_ci.domain.errors import FailedError
from vllm_ci.domain.events import Emit, ignore, step
from vllm_ci.evidence.attachment import attach
from vllm_ci.evidence.statement import MODEL_SIGNATURE, PROVENANCE, timestamp
from vllm_ci.models import artifact, evidence, history
from vllm_ci.models.artifact import Model
from vllm_ci.models.evidence import Origin
from vllm_ci.models.files import Checkpoint
from vllm_ci.models.record import ModelRecord
from vllm_ci.models.setup import ModelSetup
from vllm_ci.models.source import CheckpointSource
from vllm_ci.registry.push_progress import PushProgress
from vllm_ci.registry.repository import Repository
from vllm_ci.registry.transfer import copy


@dataclass(frozen=True, kw_only=True)
class Added:
    """What ``model add`` did.

    Attributes:
        record: The version.
        changed: It is new.
        model: What it is.
        pushed_bytes: Sent now.
        present_bytes: Of files that were there already.
        signed: Kinds of the statements that were signed now.
        left_out: Files that are not part of the model.
        seconds: Wall time of the transfer.
    """

    record: ModelRecord
    changed: bool
    model: Model
    pushed_bytes: int
    present_bytes: int
    signed: tuple[str, ...]
    left_out: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints."""
        return {
            "model": self.record.model,
            "version": f"v{self.record.version}",
            "digest": self.record.digest,
            "reference": f"{self.record.repository}@{self.record.digest}",
            "tag": self.record.tag,
            "changed": self.changed,
            "facts": self.model.facts,
            "files": [asdict(each) for each in self.model.layers],
            "size_bytes": self.model.size_bytes,
            "pushed_bytes": self.pushed_bytes,
            "present_bytes": self.present_bytes,
            "signed": list(self.signed),
            "left_out": list(self.left_out),
            "seconds": round(self.seconds, 3),
        }


def add(
    setup: ModelSetup,
    name: str,
    checkpoint: Checkpoint,
    origin: Origin,
    *,
    licence: str = "",
    reason: str = "",
    now: datetime | None = None,
    emit: Emit = ignore,
) -> Added:
    """Add a checkpoint as the next version of a model, unless it is one already.

    Args:
        setup: Repository, ledger, key.
        name: Of the model.
        checkpoint: Its files, checked.
        origin: Where it comes from.
        licence: SPDX expression.
        reason: Why, for the record.
        now: The present.
        emit: Told of each step.

    Raises:
        RegistryError: The registry broke or refused; what was sent stays and need not be sent again.
        ErroredError: The ledger cannot be reached.
    """
    present = now or datetime.now(UTC)
    url = origin.source if "://" in origin.source else ""
    model, config = artifact.make(checkpoint, name, source=url, revision=origin.revision, licence=licence)
    with setup.open() as repository:
        with step(emit, "push", name) as done:
            told, source = PushProgress(emit, "push"), CheckpointSource(checkpoint, model, config)
            sent = copy((source,), model.digest, repository, parallel=setup.access.parallel, on_bytes=told)
            done(f"{sent.pushed_bytes / 1e6:,.1f} MB sent")
        signed = _sign(setup, repository, model, name, origin, at=present, emit=emit)
        with step(emit, "ledger", name) as done:
            written = setup.ledger.append(lambda records: _proposed(setup, records, name, model, reason, present))
            record = written or next(
                each for each in history.versions(setup.ledger.read(), name) if each.digest == model.digest
            )
            done(f"v{record.version}{'' if written else ', which is there already'}")
        set_tag(repository, record)
    return Added(
        record=record,
        changed=written is not None,
        model=model,
        pushed_bytes=sent.pushed_bytes,
        present_bytes=model.size_bytes if not sent.pushed_bytes else sent.present_bytes,
        signed=signed,
        left_out=checkpoint.left_out,
        seconds=sent.seconds,
    )


def set_tag(repository: Repository, record: ModelRecord) -> None:
    """Point a version's tag at it.

    Raises:
        FailedError: The tag points to something else: versions never change.
    """
    found = repository.resolve(record.tag)
    if found is None:
        repository.put_manifest(repository.manifest(record.digest), tag=record.tag)
    elif found != record.digest:
        raise FailedError(
            f"the tag {record.tag} points to {found}, and v{record.version} of {record.model} is {record.digest}",
            why="another program moved it: the ledger's versions never change",
            remedy=f"delete that tag in {repository.name}, then add the model again",
        )


def _sign(
    setup: ModelSetup, repository: Repository, model: Model, name: str, origin: Origin, *, at: datetime, emit: Emit
) -> tuple[str, ...]:
    """Attach what is not attached yet, by a signer who is trusted."""
    found = evidence.findings(setup, repository, model, now=at)
    missing = []
    if not found.of(PROVENANCE):
        licences = [str(each) for each in model.facts.get("licenses", ())]
        missing.append(evidence.provenance(setup.subject, model, origin, licences=licences, at=at))
    if not found.of(MODEL_SIGNATURE):
        missing.append(evidence.signature(model, name))
    if not missing:
        return ()
    with step(emit, "sign", ", ".join(each.kind for each in missing)):
        key = setup.key()
        attach(repository, model.digest, *(evidence.sign(key, each) for each in missing))
    return tuple(each.kind for each in missing)


def _proposed(
    setup: ModelSetup, records: history.Records, name: str, model: Model, reason: str, now: datetime
) -> ModelRecord | None:
    made = history.versions(records, name)
    if any(each.digest == model.digest for each in made):
        return None
    return ModelRecord(
        number=len(records) + 1,
        at=timestamp(now),
        action="add",
        model=name,
        version=len(made) + 1,
        digest=model.digest,
        repository=setup.subject,
        reason=reason,
    )
