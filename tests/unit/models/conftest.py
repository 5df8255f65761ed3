from pathlib import Path

import pytest

from registries.fixtures import _access, _no_configuration_of_this_machine, _registry, _waits
from registries.models import setup_in
from vllm_ci.models.setup import ModelSetup

__all__ = ["_access", "_no_configuration_of_this_machine", "_registry", "_waits"]


@pytest.fixture(name="setup")
def _setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSetup:
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    return setup_in(tmp_path / "project")
