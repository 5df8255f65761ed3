"""Fixtures for tests that need a registry; a conftest imports those it wants."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registries.docker import DockerRegistry, docker_registry, is_installed
from registries.proxy import FaultyProxy, faulty_proxy
from vllm_ci.registry.access import Access
from vllm_ci.registry.retry import Retry


@pytest.fixture(autouse=True)
def _no_configuration_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "CONTAINERS_REGISTRIES_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(name="registry")
def _registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """Debian's docker-registry without a password."""
    if not is_installed():
        pytest.skip("docker-registry is not on PATH (apt-get install docker-registry)")
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(name="proxy")
def _proxy(registry: DockerRegistry) -> Iterator[FaultyProxy]:
    """The same, behind a proxy that breaks what it is told to."""
    with faulty_proxy(registry.host) as server:
        yield server


@pytest.fixture(name="waits")
def _waits() -> list[float]:
    """Seconds that a client would have waited, one after the other."""
    return []


@pytest.fixture(name="access")
def _access(waits: list[float]) -> Access:
    """Patient, but waits no time; uploads in small chunks."""
    return Access(retry=Retry(sleep=waits.append), chunk_bytes=64 << 10, timeout_s=10)
