"""A repository with a base model, data, and a plan to retrain it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from registries.evidence import commit_of
from registries.fixtures import _access, _no_configuration_of_this_machine, _registry, _waits
from registries.models import add, checkpoint, safetensors, setup_in
from unit.retraining import toy
from vllm_ci.config import models
from vllm_ci.domain.events import Event
from vllm_ci.models.naming import ModelRef
from vllm_ci.models.policy import AliasPolicy
from vllm_ci.models.setup import ModelSetup
from vllm_ci.retraining.plan import DataSet, Plan, Retrained
from vllm_ci.retraining.retrain import Retraining

__all__ = ["_access", "_no_configuration_of_this_machine", "_registry", "_waits"]


@dataclass(kw_only=True)
class Desk:
    """Everything that a retraining needs, in a folder."""

    folder: Path
    setup: ModelSetup
    engine: toy.ToyEngine
    plan: Plan
    events: list[Event]

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def run(self, **changes: Any) -> Retrained:
        """Retrain; `changes` replace attributes of the plan."""
        asked = Retraining(
            plan=replace(self.plan, **changes),
            setup=self.setup,
            engine=self.engine,
            project=toy.project(),
            source=toy.source(self.folder, commit_of(1)),
            emit=self.events.append,
        )
        return anyio.run(asked.run)

    def results(self, step: str) -> list[Path]:
        """Folders of the results of a step."""
        return [
            each for each in sorted((self.folder / "home" / "retraining" / step).iterdir()) if not each.name.startswith(".")
        ]

    def add(self, name: str, share: int) -> None:
        """Add a model that knows this share of 100 questions."""
        place = checkpoint(self.folder / f"{name}-{share}")
        (place / toy.PART).write_bytes(safetensors({"b": bytes([share]) * 4096}))
        add(self.setup, place, name)


@pytest.fixture(name="desk")
def _desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    data = toy.write_rows(tmp_path / "data")
    give: Callable[..., DataSet] = lambda _base, _emit: DataSet(folder=data, versions={"prepared data": "sha256:" + "d" * 64})  # noqa: E731
    desk = Desk(
        folder=tmp_path,
        setup=setup_in(tmp_path / "project", aliases={"champion": AliasPolicy(), "challenger": AliasPolicy()}),
        engine=toy.ToyEngine(folder=tmp_path / "work"),
        plan=Plan(name="chat", base=ModelRef(name="base", version=1), data=give, licence="Apache-2.0"),
        events=[],
    )
    desk.add("base", 20)
    return desk


CONFIG = """
version: 1
name: sample
image: {spec: cpu, repository: sample}
model: {served_name: tiny}
release: {channels: {production: {}}}
"""


@pytest.fixture
def project(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The desk as the current folder, with a configuration, so that commands find its models."""
    monkeypatch.setattr(models, "of", lambda _: desk.setup)
    monkeypatch.chdir(desk.folder)
    (desk.folder / "vllm-ci.yaml").write_text(CONFIG, encoding="utf-8")
    return desk
