"""What an alias requires of a model: data, and a pure function over verified evidence. Missing data refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from vllm_ci.evidence import strict
from vllm_ci.evidence.predicates import evaluation
from vllm_ci.evidence.refusals import MalformedError
from vllm_ci.evidence.statement import EVALUATION, MODEL_SIGNATURE, PROVENANCE
from vllm_ci.evidence.verify import Evidence, Findings
from vllm_ci.models import history
from vllm_ci.models.record import ModelRecord
from vllm_ci.release.policy import Decision, RuleResult


@dataclass(frozen=True, kw_only=True)
class AliasPolicy:
    """What a model must have.

    Attributes:
        signers: Whose evidence counts; empty: everybody's who is trusted.
        licenses: Licences that are allowed, as SPDX expressions; empty: any, also none.
        after: Alias that must have pointed to the version before.
        evaluation: An evaluation must have found it better than the version that the alias points to.
    """

    signers: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    after: str = ""
    evaluation: bool = False

    @property
    def digest(self) -> str:
        """Hex sha256 of what it says."""
        return hashlib.sha256(strict.canonical(asdict(self))).hexdigest()


def decide(
    policy: AliasPolicy,
    found: ModelRecord,
    findings: Findings,
    records: Sequence[ModelRecord],
    *,
    licences: Sequence[str],
    alias: str = "",
    problem: str = "",
) -> Decision:
    """Whether an alias may point to a version.

    Args:
        policy: What it requires.
        found: The version.
        findings: What is attached to it, verified.
        records: The ledger.
        licences: What its configuration says.
        alias: The alias.
        problem: What is wrong with its files, empty when they are as its manifest says.
    """
    counted = [each for each in findings.evidence if not policy.signers or each.signer in policy.signers]
    rules = [
        RuleResult(rule="files", expected="every file as the manifest says", got=problem or "unaltered", ok=not problem),
        _attached("signature", "a signature over all files", MODEL_SIGNATURE, counted, findings),
        _attached("provenance", "a provenance", PROVENANCE, counted, findings),
    ]
    if policy.licenses:
        ok = bool(licences) and set(licences) <= set(policy.licenses)
        expected = " or ".join(policy.licenses)
        rules.append(RuleResult(rule="license", expected=expected, got=", ".join(licences) or "no licence", ok=ok))
    if policy.after:
        been = history.was(records, found.model, policy.after, found.version)
        got = f"been {policy.after}" if been else f"never {policy.after}"
        rules.append(RuleResult(rule="after", expected=f"been {policy.after}", got=got, ok=been))
    if policy.evaluation:
        rules.append(_evaluated(found, counted, findings, records, alias))
    return Decision(rules=tuple(rules), policy=policy.digest, evidence=tuple(sorted(each.digest for each in counted)))


def _attached(rule: str, expected: str, kind: str, counted: Sequence[Evidence], findings: Findings) -> RuleResult:
    fitting = [each for each in counted if each.statement.predicate_type == kind]
    if fitting:
        return RuleResult(rule=rule, expected=expected, got=f"signed by {fitting[-1].signer}", ok=True)
    notes = sorted({refusal.message for refusal in findings.refused.values()})
    others = len(findings.evidence) - len(counted)
    notes += [f"{others} statements by other signers"] if others else []
    got = f"none ({'; '.join(notes)})" if notes else "none"
    return RuleResult(rule=rule, expected=expected, got=got, ok=False)


def _evaluated(
    found: ModelRecord, counted: Sequence[Evidence], findings: Findings, records: Sequence[ModelRecord], alias: str
) -> RuleResult:
    """The newest evaluation counts, and only if it compared with the version that the alias points to now."""
    standing = history.head(records, found.model, alias)
    expected = "an evaluation that found it better" + (f" than v{standing.version}" if standing else "")
    if standing is None:
        return RuleResult(rule="evaluation", expected=expected, got=f"nothing is {alias} yet", ok=True)
    if history.was(records, found.model, alias, found.version):
        return RuleResult(rule="evaluation", expected=expected, got=f"it is, or was, {alias} itself", ok=True)
    fitting = [each for each in counted if each.statement.predicate_type == EVALUATION]
    if not fitting:
        return _attached("evaluation", expected, EVALUATION, counted, findings)
    newest = max(fitting, key=lambda each: each.at)
    try:
        said = evaluation.read(newest.statement)
    except MalformedError as error:
        return RuleResult(rule="evaluation", expected=expected, got=error.message, ok=False)
    if said.champion != standing.digest:
        got = f"it was compared with {said.champion[:19]}, not with v{standing.version} {standing.digest[:19]}"
        return RuleResult(rule="evaluation", expected=expected, got=got, ok=False)
    got = f"better, signed by {newest.signer}" if said.blessed else f"not better: {'; '.join(said.reasons)}"
    return RuleResult(rule="evaluation", expected=expected, got=got, ok=said.blessed)
