"""Whether a challenger is good enough to take the champion's place: a policy, and a pure function over a comparison.

It has to be better, and provably so: what cannot be told from chance is refused, like what is worse.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from vllm_ci.evidence import strict
from vllm_ci.release.policy import Decision, RuleResult
from vllm_ci.retraining.comparing import Comparison
from vllm_ci.retraining.prompts import Checked

_MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class BlessingPolicy:
    """What a challenger must show.

    Attributes:
        rows: Fewest held-out rows that a decision is made on.
        margin: The accuracy must have risen by more than this, as a share, at the lower end of its interval.
        confidence: Of the intervals; 1 less this is the greatest probability of chance.
        loss_rise: Most that the mean loss may rise, at the upper end of its interval.
        lost: Most rows that only the champion got right, as a share of all rows.
    """

    rows: int = 50
    margin: float = 0.0
    confidence: float = 0.95
    loss_rise: float = 0.0
    lost: float = 0.05

    @property
    def digest(self) -> str:
        """Hex sha256 of what it says."""
        return hashlib.sha256(strict.canonical(asdict(self))).hexdigest()


def bless(policy: BlessingPolicy, found: Comparison, prompts: Checked | None = None) -> Decision:
    """Whether the challenger is blessed, with every rule and what was found."""
    rules = [*_rules(policy, found), *([_of_prompts(prompts)] if prompts else [])]
    return Decision(rules=tuple(rules), policy=policy.digest, evidence=())


def _rules(policy: BlessingPolicy, found: Comparison) -> Iterator[RuleResult]:
    yield RuleResult(rule="rows", expected=f"at least {policy.rows}", got=str(found.rows), ok=found.rows >= policy.rows)
    yield RuleResult(
        rule="accuracy",
        expected=f"a gain of more than {policy.margin:.1%}, provably",
        got=f"{found.gain.value:+.1%}, between {found.gain.low:+.1%} and {found.gain.high:+.1%}{_meaning(policy, found)}",
        ok=found.gain.low > policy.margin,
    )
    chance = 1 - policy.confidence
    yield RuleResult(
        rule="chance",
        expected=f"at most {chance:.2g}",
        got=f"{found.won} rows won, {found.lost} lost: p = {found.p_better:.2g}",
        ok=found.p_better <= chance,
    )
    share = found.lost / found.rows
    yield RuleResult(
        rule="lost", expected=f"at most {policy.lost:.1%} of the rows", got=f"{share:.1%}", ok=share <= policy.lost
    )
    change = found.loss_change
    yield RuleResult(
        rule="loss",
        expected=f"a rise of at most {policy.loss_rise:g}",
        got=f"{change.value:+.3g}, between {change.low:+.3g} and {change.high:+.3g}" if change else "not measured",
        ok=change is not None and change.high <= policy.loss_rise,
    )


def _of_prompts(found: Checked) -> RuleResult:
    named = "; ".join(f"{name}: {wrong}" for name, wrong in found.broken[:_MOST_NAMED])
    return RuleResult(
        rule="prompts",
        expected="none answered wrongly that must always be right, or that the champion answers right",
        got=f"{len(found.broken)} of {found.asked}{f': {named}' if named else ''}",
        ok=not found.broken,
    )


def _meaning(policy: BlessingPolicy, found: Comparison) -> str:
    if found.gain.low > policy.margin:
        return ""
    if found.gain.high <= policy.margin:
        return ": worse" if policy.margin <= 0 else ": less than the margin"
    return ": cannot be told from chance" if policy.margin <= 0 else ": cannot be told from the margin"
