"""A policy's decision as a statement (in-toto simple verification result, SVR v0.1)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from vllm_ci import __version__
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence.statement import DECISION, Statement, timestamp

VERIFIER = "tag:vllm-ci,2026:policy/v1"


def statement(
    image: ImageRef, commit: Commit, *, channel: str, policy: str, rules: Iterable[str], evidence: Iterable[str], at: datetime
) -> Statement:
    """The statement that ``image`` may go to ``channel``.

    Args:
        image: What was decided on.
        commit: It was made from.
        channel: Where it may go.
        policy: Hex sha256 of the policy that was evaluated.
        rules: Names of its rules, all of which held.
        evidence: Digests of the attachments that it was decided by.
        at: When.
    """
    predicate = {
        "verifier": {
            "id": VERIFIER,
            "version": __version__,
            # Fields of our own, as the predicate's specification allows for configurable policies.
            "policy": {"name": channel, "digest": {"sha256": policy}},
            "evidence": [{"digest": {"sha256": each.removeprefix("sha256:")}} for each in sorted(evidence)],
        },
        "timeCreated": timestamp(at),
        "properties": [f"VLLM_CI_RELEASE_{channel}", *(f"VLLM_CI_RULE_{rule}" for rule in rules)],
    }
    return Statement.about(image, commit, DECISION, predicate)
