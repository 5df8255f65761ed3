"""Aliases of models move like channels: by policy, recorded in the ledger, and back again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from vllm_ci.domain.errors import FailedError, UsageError
from vllm_ci.domain.events import Emit, ignore, step
from vllm_ci.evidence.refusals import Refusal
from vllm_ci.evidence.statement import timestamp
from vllm_ci.evidence.verify import Findings
from vllm_ci.models import evidence, history, policy, reading
from vllm_ci.models.ledger import Records
from vllm_ci.models.naming import ModelRef, check_alias
from vllm_ci.models.record import ModelRecord
from vllm_ci.models.refusals import UnsafeModelError
from vllm_ci.models.setup import ModelSetup
from vllm_ci.registry.errors import DigestError, NotFoundError
from vllm_ci.registry.repository import Repository
from vllm_ci.release.policy import Decision
from vllm_ci.release.record import Rule

Action = Literal["alias", "rollback"]


@dataclass(frozen=True, kw_only=True)
class AliasMove:
    """The result of ``model alias`` or ``model rollback``.

    Attributes:
        action: What was asked.
        alias: Which alias.
        record: The version it points to now (or would, or may not).
        previous: Version that it pointed to before; 0 for none.
        decision: The result of the policy.
        changed: It moved (or would, in a dry run).
        skipped: For a rollback: earlier versions that may not be used, and why.
        dry_run: Nothing was done.
    """

    action: Action
    alias: str
    record: ModelRecord
    previous: int
    decision: Decision
    changed: bool
    skipped: tuple[str, ...] = ()
    dry_run: bool = False

    def require(self) -> AliasMove:
        """Itself, when the policy allowed it.

        Raises:
            FailedError: It did not.
        """
        if not self.decision.allowed:
            raise FailedError(
                f"v{self.record.version} of {self.record.model} may not become {self.alias}",
                why="; ".join(self.decision.reasons),
                remedy=f"vllm-ci model show {self.record.model}@v{self.record.version} lists its evidence",
            )
        return self

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints."""
        return {
            "action": self.action,
            "model": self.record.model,
            "alias": self.alias,
            "version": f"v{self.record.version}",
            "digest": self.record.digest,
            "previous": f"v{self.previous}" if self.previous else None,
            "decision": {"allowed": self.decision.allowed, "reasons": list(self.decision.reasons)},
            "changed": self.changed,
            "skipped": list(self.skipped),
            "dry_run": self.dry_run,
        }


def move(
    setup: ModelSetup,
    ref: ModelRef,
    alias: str,
    *,
    reason: str = "",
    dry_run: bool = False,
    now: datetime | None = None,
    emit: Emit = ignore,
) -> AliasMove:
    """Point an alias to a version, if the alias's policy allows it; every file of the version is read and checked.

    Args:
        setup: Repository, ledger and policies.
        ref: The version.
        alias: Its name.
        reason: Why, for the record.
        dry_run: Say what would be done, and do nothing.
        now: The present.
        emit: Told of each step.

    Raises:
        UsageError: There is no such version.
        ConfigError: There is no such alias.
        ErroredError: The ledger cannot be reached.
    """
    rules, present = setup.policy(check_alias(alias)), now or datetime.now(UTC)
    records = setup.ledger.read()
    found = history.find(records, ref)
    with setup.open() as repository, step(emit, "verify", f"{found.model}@v{found.version}"):
        decision = _decided(setup, repository, rules, found, records, alias, now=present, files=True)
    return _moved(setup, "alias", alias, found, records, decision, reason=reason, dry_run=dry_run, now=present, emit=emit)


def rollback(
    setup: ModelSetup,
    name: str,
    alias: str,
    *,
    to: int = 0,
    reason: str = "",
    dry_run: bool = False,
    now: datetime | None = None,
    emit: Emit = ignore,
) -> AliasMove:
    """Point an alias back to an earlier version, by default the newest one whose evidence still verifies.

    The files are not read again, so that it takes no time: they are checked whenever they are pulled.

    Args:
        setup: Repository, ledger and policies.
        name: Of the model.
        alias: Its name.
        to: Number of the version to go back to; 0 for the newest that may be used.
        reason: Why, for the record.
        dry_run: Say what would be done, and do nothing.
        now: The present.
        emit: Told of each step.

    Raises:
        UsageError: There is no earlier version.
        FailedError: Another writer moved the alias in the meantime.
        ErroredError: The ledger cannot be reached.
    """
    rules, present = setup.policy(check_alias(alias)), now or datetime.now(UTC)
    records = setup.ledger.read()
    history.find(records, ModelRef(name=name, alias=alias))
    candidates = history.earlier(records, name, alias)
    candidates = tuple(each for each in candidates if to in (0, each))
    if not candidates:
        what = f"v{to}" if to else "an earlier version"
        raise UsageError(
            f"{name}@{alias} cannot go back to {what}",
            why="it did not point there before",
            remedy=f"vllm-ci model history {name} {alias}",
        )
    tried: list[tuple[ModelRecord, Decision]] = []
    with setup.open() as repository, step(emit, "verify", f"{name}@{alias}"):
        for version in candidates:
            found = history.find(records, ModelRef(name=name, version=version))
            tried.append((found, _decided(setup, repository, rules, found, records, alias, now=present, files=False)))
            if tried[-1][1].allowed:
                break
    found, decision = tried[-1] if tried[-1][1].allowed else tried[0]
    skipped = tuple(f"v{each.version}: {'; '.join(why.reasons)}" for each, why in tried if each is not found)
    return _moved(
        setup,
        "rollback",
        alias,
        found,
        records,
        decision,
        reason=reason,
        dry_run=dry_run,
        now=present,
        emit=emit,
        skipped=skipped,
    )


def _moved(
    setup: ModelSetup,
    action: Action,
    alias: str,
    found: ModelRecord,
    records: Records,
    decision: Decision,
    *,
    reason: str,
    dry_run: bool,
    now: datetime,
    emit: Emit,
    skipped: tuple[str, ...] = (),
) -> AliasMove:
    """Record the move, unless others moved the alias since it was looked at."""
    before = history.head(records, found.model, alias)

    def proposed(newest: Records) -> ModelRecord | None:
        standing = history.head(newest, found.model, alias)
        if standing is not None and standing.version == found.version:
            return None
        if standing != before:
            raise FailedError(
                f"{found.model}@{alias} was moved to v{standing.version if standing else 0} in the meantime",
                why=f"by {standing.by if standing else 'another writer'}",
                remedy=f"look at vllm-ci model history {found.model} {alias}, then try again",
            )
        return ModelRecord(
            number=len(newest) + 1,
            at=timestamp(now),
            action=action,
            model=found.model,
            version=found.version,
            digest=found.digest,
            repository=setup.subject,
            alias=alias,
            previous=before.version if before else 0,
            policy=decision.policy,
            rules=tuple(Rule(rule=each.rule, expected=each.expected, got=each.got) for each in decision.rules),
            evidence=decision.evidence,
            reason=reason,
        )

    changes = before is None or before.version != found.version
    if decision.allowed and not dry_run and changes:
        with step(emit, "ledger", f"{found.model}@{alias}") as done:
            written = setup.ledger.append(proposed)
            changes = written is not None
            done(f"record {written.number}" if written else "nothing to record")
    return AliasMove(
        action=action,
        alias=alias,
        record=found,
        previous=before.version if before else 0,
        decision=decision,
        changed=decision.allowed and changes,
        skipped=skipped,
        dry_run=dry_run,
    )


def _decided(
    setup: ModelSetup,
    repository: Repository,
    rules: policy.AliasPolicy,
    found: ModelRecord,
    records: Records,
    alias: str,
    *,
    now: datetime,
    files: bool,
) -> Decision:
    """The decision on a version; one that is gone or altered is refused like one without evidence."""
    try:
        model = reading.read(repository, found.digest)
        if files:
            problem = "; ".join(reading.problems_of(repository, model)[:3])
        else:
            problem = "; ".join(f"{each.path} is missing" for each in model.layers if not repository.has_blob(each.digest))
        attached = evidence.findings(setup, repository, model, now=now)
    except (NotFoundError, DigestError, UnsafeModelError, Refusal) as error:
        return policy.decide(
            rules, found, Findings(image=found.digest), records, licences=(), alias=alias, problem=error.message
        )
    licences = [str(each) for each in model.facts.get("licenses", ())]
    return policy.decide(rules, found, attached, records, licences=licences, alias=alias, problem=problem)
