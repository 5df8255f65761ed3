"""What a retraining is asked to do, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vllm_ci.domain.errors import FailedError
from vllm_ci.domain.events import Emit
from vllm_ci.models.adding import Added
from vllm_ci.models.aliases import AliasMove
from vllm_ci.models.naming import ModelRef
from vllm_ci.release.policy import Decision
from vllm_ci.retraining.blessing import BlessingPolicy
from vllm_ci.retraining.comparing import Comparison
from vllm_ci.retraining.evaluating import Match
from vllm_ci.retraining.prompts import Checked, Prompt
from vllm_ci.retraining.store import Result
from vllm_ci.retraining.training import Training


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Prepared data on this machine.

    Attributes:
        folder: Holds ``train.jsonl``, ``test.jsonl`` and perhaps ``validation.jsonl``.
        versions: Digests that the data is known by elsewhere, by name; for the provenance of the model.
    """

    folder: Path
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answering:
    """How models are asked the held-out rows.

    Attributes:
        max_tokens: Longest answer.
        match: When an answer is right.
        parallel: Rows at the same time.
    """

    max_tokens: int = 256
    match: Match = "exact"
    parallel: int = 8


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked for.

    Attributes:
        name: Model that gets a new version.
        base: Version that is trained; no alias, so that the same plan means the same model.
        data: Gives the prepared data for the base model in a folder.
        training: How it is trained.
        image: Image for training: the name of a shipped spec, or a path.
        environment: What the training runs in: digests of spec, locks and program.
        gpus: Devices for the training.
        timeout_s: Longest time of the training.
        answering: How models are asked.
        policy: What the challenger must show.
        prompts: Prompts whose answers are checked by patterns.
        promote: Move the alias of the champion as well.
        champion: Alias of the model in use.
        challenger: Alias of the newest blessed model.
        licence: Of the new version, as an SPDX expression.
        reason: For the records.
    """

    name: str
    base: ModelRef
    data: Callable[[Path, Emit], DataSet]
    training: Training = field(default_factory=Training)
    image: str = "train"
    environment: Mapping[str, str] = field(default_factory=dict)
    gpus: str = "none"
    timeout_s: float = 24 * 3600.0
    answering: Answering = field(default_factory=Answering)
    policy: BlessingPolicy = field(default_factory=BlessingPolicy)
    prompts: tuple[Prompt, ...] = ()
    promote: bool = False
    champion: str = "champion"
    challenger: str = "challenger"
    licence: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Retrained:
    """What a retraining did.

    Attributes:
        name: Of the model.
        steps: Results of the steps, in order.
        compared: The version that the challenger was compared with.
        comparison: The figures; ``None`` when the trained model is the champion already.
        decision: Whether it is blessed; ``None`` as above.
        prompts: What became of the prompts; ``None`` if there are none.
        added: The version that was registered; ``None`` when it is not blessed.
        moves: Aliases that were moved, or stand where they should.
        training: What the training says of itself.
    """

    name: str
    steps: tuple[Result, ...]
    compared: str
    comparison: Comparison | None
    decision: Decision | None
    prompts: Checked | None = None
    added: Added | None = None
    moves: tuple[AliasMove, ...] = ()
    training: Mapping[str, object] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Something was made, registered or moved."""
        return bool(
            not all(each.cached for each in self.steps)
            or (self.added and (self.added.changed or self.added.signed))
            or any(each.changed for each in self.moves)
        )

    def require(self) -> Retrained:
        """Itself, when the challenger is blessed, or is the champion already.

        Raises:
            FailedError: It is not.
        """
        if self.decision is not None and not self.decision.allowed:
            raise FailedError(
                f"the trained model is not blessed: nothing of {self.name} was registered",
                why="; ".join(self.decision.reasons),
                remedy="collect more or better rows, or change how it is trained; `validate` in retrain.yaml has the policy",
            )
        return self

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints."""
        return {
            "model": self.name,
            "changed": self.changed,
            "steps": [each.to_json() for each in self.steps],
            "compared_with": self.compared,
            "comparison": asdict(self.comparison) if self.comparison else None,
            "prompts": asdict(self.prompts) if self.prompts else None,
            "blessed": self.decision.allowed if self.decision else None,
            "rules": [asdict(each) for each in self.decision.rules] if self.decision else [],
            "reasons": list(self.decision.reasons) if self.decision else [],
            "version": self.added.to_json() if self.added else None,
            "aliases": [each.to_json() for each in self.moves],
            "training": dict(self.training),
        }
