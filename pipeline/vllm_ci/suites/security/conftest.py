"""Fixtures of the security suite."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vllm_ci.suites import connecting
from vllm_ci.suites.security.door import Door
from vllm_ci.suites.server import ServerFacts

_RESPONSE_S = 20.0


@pytest.fixture(scope="session")
def door(pytestconfig: pytest.Config, server: ServerFacts, api_key: str, patience: Callable[[float], float]) -> Door:
    """The server, for requests exactly as they are given."""
    return Door(server=server, key=api_key, traffic=connecting.traffic(pytestconfig), timeout_s=patience(_RESPONSE_S))


@pytest.fixture
def text_server(server: ServerFacts) -> ServerFacts:
    """A server that writes text; a case is skipped on one that does not, for example one with embeddings only."""
    if not (server.can("chat") or server.can("completions")):
        pytest.skip("the server supports neither chat nor completions")
    return server
