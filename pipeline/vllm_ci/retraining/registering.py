"""The steps ``register`` and ``promote``: a blessed model becomes a version, with evidence, and aliases move to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vllm_ci.domain.errors import FailedError
from vllm_ci.domain.events import Emit
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence.attachment import attach
from vllm_ci.evidence.predicates import evaluation
from vllm_ci.evidence.predicates.evaluation import Evaluation
from vllm_ci.evidence.refusals import MalformedError
from vllm_ci.evidence.statement import EVALUATION, Statement
from vllm_ci.models import adding, aliases, evidence, files, history
from vllm_ci.models.adding import Added
from vllm_ci.models.aliases import AliasMove
from vllm_ci.models.evidence import Origin
from vllm_ci.models.naming import ModelRef
from vllm_ci.models.refusals import UnsafeModelError
from vllm_ci.models.setup import ModelSetup
from vllm_ci.release.policy import Decision


@dataclass(frozen=True, kw_only=True)
class Registration:
    """What is registered.

    Attributes:
        setup: Where.
        name: Of the model.
        folder: Its files.
        origin: Where it comes from, how it was trained.
        licence: SPDX expression.
        found: The evaluation.
        decision: Its rules.
        reason: For the records.
        code: Digests of the base model's Python files, which somebody reviewed: they are taken as they are.
    """

    setup: ModelSetup
    name: str
    folder: Path
    origin: Origin
    licence: str
    found: Evaluation
    decision: Decision
    reason: str
    code: Collection[str] = ()

    def add(self, emit: Emit) -> Added:
        """Add it as the next version, with its evaluation; what is there already stays as it is.

        Raises:
            RegistryError: The registry broke or refused.
            UnsafeModelError: A file is not what it should be.
        """
        checkpoint = files.check(self.folder, code=bool(self.code))
        if other := next((each.path for each in checkpoint.files if each.kind == "code" and each.digest not in self.code), ""):
            raise UnsafeModelError(f"{other} is code that the base model does not have", remedy="do not use the trained model")
        added = adding.add(self.setup, self.name, checkpoint, self.origin, licence=self.licence, reason=self.reason, emit=emit)
        self._attach(added)
        return added

    def _attach(self, added: Added) -> None:
        """Sign and attach the evaluation, unless the same one is there."""
        with self.setup.open() as repository:
            known = evidence.findings(self.setup, repository, added.model, now=datetime.now(UTC))
            if any(_is_same(self.found, each.statement) for each in known.of(EVALUATION)):
                return
            about = ImageRef(repository=self.setup.subject, digest=added.model.digest)
            made = evaluation.statement(about, self.origin.commit, self.found, self.decision)
            attach(repository, added.model.digest, evidence.sign(self.setup.key(), made))

    def move(self, version: int, alias: str, *, evaluated: bool, emit: Emit) -> AliasMove:
        """Point an alias to a version by its policy; every file and all evidence is read again first.

        No person confirms this, so a version that was rolled back is not used again: the same data gives the same figures.

        Args:
            version: Number of the version.
            alias: Its name.
            evaluated: Require the evaluation, also where the alias's own policy does not.
            emit: Told of each step.

        Raises:
            FailedError: The policy refuses, or the alias was rolled back from this version.
        """
        setup = self.setup
        if back := history.undone(setup.ledger.read(), self.name, alias, version):
            raise FailedError(
                f"{self.name}@{alias} was rolled back from v{version} by {back.by.partition(' <')[0]}",
                why=back.reason or "no reason was given",
                remedy=f"change the data or the settings, or put it back: vllm-ci model alias {self.name} {alias}=v{version}",
            )
        if evaluated:
            strict = replace(setup.policy(alias), evaluation=True)
            setup = replace(setup, aliases={**setup.aliases, alias: strict})
        ref = ModelRef(name=self.name, version=version)
        return aliases.move(setup, ref, alias, reason=self.reason, emit=emit).require()


def figures_of(found: Mapping[str, object]) -> dict[str, object]:
    """Figures for a statement: rounded, so that the same comparison is the same statement."""

    def rounded(value: object) -> object:
        if isinstance(value, float):
            return float(f"{value:.6g}")
        if isinstance(value, Mapping):
            return {str(key): rounded(each) for key, each in value.items()}
        return value

    return {key: rounded(each) for key, each in found.items()}


def _is_same(found: Evaluation, statement: Statement) -> bool:
    try:
        return replace(evaluation.read(statement), finished=found.finished) == replace(found, reasons=tuple(found.reasons))
    except MalformedError:
        return False
