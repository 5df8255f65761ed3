"""Fixtures of the integration cases."""

from __future__ import annotations

import pytest

from vllm_ci.suites.client import ApiClient, Json
from vllm_ci.suites.server import ServerFacts

_BLANKS = (" ", "\n", "\t", "\r", "  ", "\n\n", "\r\n")


@pytest.fixture(scope="session")
def blankless(client: ApiClient, server: ServerFacts) -> Json:
    """A bias against white space, which a model with random weights may generate endlessly inside JSON."""
    if not (server.can("tokenize") and server.can("logit_bias")):
        return {}
    single = [tokens[0] for tokens in map(client.tokens, _BLANKS) if len(tokens) == 1]
    return {"logit_bias": {str(token): -100 for token in single}}
