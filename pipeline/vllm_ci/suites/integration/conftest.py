"""Fixtures of the integration cases."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from vllm_ci.suites.client import ApiClient, Json
from vllm_ci.suites.findings import Finding
from vllm_ci.suites.integration.refusals import CRASH, Judge
from vllm_ci.suites.server import ServerFacts

_BLANKS = (" ", "\n", "\t", "\r", "  ", "\n\n", "\r\n")


@pytest.fixture(scope="session")
def blankless(client: ApiClient, server: ServerFacts) -> Json:
    """A bias against white space, which a model with random weights may generate endlessly inside JSON."""
    if not (server.can("tokenize") and server.can("logit_bias")):
        return {}
    single = [tokens[0] for tokens in map(client.tokens, _BLANKS) if len(tokens) == 1]
    return {"logit_bias": {str(token): -100 for token in single}}


@pytest.fixture
def crashed(request: pytest.FixtureRequest, judge: Judge) -> Judge:
    """Judge findings that an invalid request is answered with a server error; they have one cause."""

    def decide(findings: Iterable[Finding]) -> None:
        found = list(findings)
        if found:
            request.node.user_properties.append(("cause", dict(CRASH)))
        judge(found)

    return decide
