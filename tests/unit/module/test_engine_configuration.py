"""What tests on a Dagger engine and tests of trainings write into files, read here: they run on few machines."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from e2e.means import aliases, configure
from e2e.test_retraining import SETTINGS, planned
from vllm_ci.config.load import load
from vllm_ci.config.retraining import TrainConfig
from vllm_ci.retraining.training import Training

ROOT = Path(__file__).parents[3]


def test_releases_and_aliases_can_be_configured_in_the_quickstart(tmp_path: Path) -> None:
    checkout = tmp_path / "quickstart"
    shutil.copytree(ROOT / "examples" / "quickstart", checkout, ignore=shutil.ignore_patterns(".vllm-ci", "__pycache__"))
    named = yaml.safe_load((checkout / "vllm-ci.yaml").read_text())["models"]["named"]
    configure(checkout, repository="registry:5000/team/quickstart", ledger="http://git:8080/releases.git")
    aliases(checkout, {"challenger": {}, "champion": {"after": "challenger", "licenses": ["Apache-2.0"]}})
    config = load(checkout / "vllm-ci.yaml").config
    assert set(config.models.aliases) == {"challenger", "champion"}
    assert config.models.aliases["champion"].after == "challenger"
    assert set(config.models.named) == set(named), "the models that can be served by name are still there"
    assert config.release.ledger.repository == "http://git:8080/releases.git"


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, replace(SETTINGS, seed=11, epochs=40), replace(SETTINGS, method="lora", objective="dpo", beta=0.2)],
    ids=["as they are", "with another seed", "on preferences"],
)
def test_settings_of_a_training_are_the_same_from_a_plan(settings: Training) -> None:
    assert TrainConfig.model_validate(planned(settings)).domain() == settings
