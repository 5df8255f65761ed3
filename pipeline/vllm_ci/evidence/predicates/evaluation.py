"""A comparison of a model with the one in use, on held-out rows, and what was decided (a predicate of our own)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence.refusals import MalformedError
from vllm_ci.evidence.statement import EVALUATION, Statement, moment, timestamp
from vllm_ci.release.policy import Decision


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a statement says.

    Attributes:
        champion: Digest of the model that it was compared with.
        data: Digest of the prepared data.
        answers: Digests of both models' answers, row by row: of the champion, of the challenger.
        figures: Accuracy, loss, intervals, as plain data.
        blessed: It may take the champion's place.
        reasons: Why not.
        finished: When it was decided.
    """

    champion: str
    data: str
    answers: tuple[str, str]
    figures: Mapping[str, Any]
    blessed: bool
    reasons: Sequence[str]
    finished: datetime


def statement(challenger: ImageRef, commit: Commit | None, found: Evaluation, decision: Decision) -> Statement:
    """The statement about a model.

    Args:
        challenger: The model, under the name of its repository.
        commit: Commit of the project.
        found: What was found.
        decision: Every rule and its result.
    """
    predicate = {
        "champion": {"digest": {"sha256": _hex(found.champion)}},
        "data": {"digest": {"sha256": _hex(found.data)}},
        "answers": [{"of": who, "digest": {"sha256": _hex(each)}} for who, each in zip(_WHO, found.answers, strict=True)],
        "figures": dict(found.figures),
        "policy": decision.policy,
        "rules": [{"rule": each.rule, "expected": each.expected, "got": each.got, "ok": each.ok} for each in decision.rules],
        "blessed": found.blessed,
        "reasons": list(found.reasons),
        "finishedAt": timestamp(found.finished),
    }
    return Statement.about(challenger, commit, EVALUATION, predicate)


def read(statement: Statement) -> Evaluation:
    """What a statement says.

    Raises:
        MalformedError: It is not readable, or says two things.
    """
    try:
        predicate = statement.predicate
        rules = [bool(each["ok"]) for each in predicate["rules"]]
        found = Evaluation(
            champion=f"sha256:{predicate['champion']['digest']['sha256']}",
            data=f"sha256:{predicate['data']['digest']['sha256']}",
            answers=_pair(predicate["answers"]),
            figures=dict(predicate["figures"]),
            blessed=predicate["blessed"] is True,
            reasons=tuple(str(each) for each in predicate["reasons"]),
            finished=moment(predicate["finishedAt"]),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise MalformedError("an evaluation cannot be read", remedy="run vllm-ci retrain again") from error
    if found.blessed != (bool(rules) and all(rules)):
        raise MalformedError("an evaluation says something else than its rules", remedy="run vllm-ci retrain again")
    return found


_WHO = ("champion", "challenger")


def _pair(found: Any) -> tuple[str, str]:
    by_name = {each["of"]: f"sha256:{each['digest']['sha256']}" for each in found}
    return by_name["champion"], by_name["challenger"]


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
