"""What the tests on a Dagger engine write into the quickstart's configuration, read here: most machines have no engine."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from e2e.means import aliases, configure
from vllm_ci.config.load import load

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
