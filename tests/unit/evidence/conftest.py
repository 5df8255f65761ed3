from __future__ import annotations

from pathlib import Path

import pytest

from registries.fixtures import _access, _no_configuration_of_this_machine, _proxy, _registry, _waits
from vllm_ci.evidence import keys
from vllm_ci.evidence.keys import PrivateKey

__all__ = ["_access", "_no_configuration_of_this_machine", "_proxy", "_registry", "_waits"]


@pytest.fixture(scope="session", name="key")
def _key(tmp_path_factory: pytest.TempPathFactory) -> PrivateKey:
    """An ECDSA key; its public half is `ci`."""
    folder = tmp_path_factory.mktemp("keys")
    keys.generate(folder)
    return keys.load(str(folder / "release.key"), passphrase="", environment={})


@pytest.fixture(scope="session", name="other_key")
def _other_key(tmp_path_factory: pytest.TempPathFactory) -> PrivateKey:
    folder = tmp_path_factory.mktemp("other-keys")
    keys.generate(folder)
    return keys.load(str(folder / "release.key"), passphrase="", environment={})


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    return tmp_path / "layout"
