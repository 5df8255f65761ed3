"""Security findings that are accepted by default: those of vLLM itself, and those of a server that runs only for the tests."""

from __future__ import annotations

import datetime as dt

from vllm_ci.config.server import ModelConfig, ServerConfig
from vllm_ci.domain.stage import Accepted, AcceptedFinding, AcceptedKnown

UNTIL = dt.date(2027, 12, 31)
"""Reviewed with each version of vLLM in the built-in images; after this day the findings fail again."""

# No commit of a user caused these, and none of severity medium gives access to anyone.
_VLLM = AcceptedKnown(known="vllm", up_to="medium", reason="known of this version of vLLM itself", until=UNTIL, by_default=True)
_NO_KEY = {"no-authentication": "the project sets no API key, and the server runs on this machine only for the tests"}
_TINY = {"special-token-injection": "the generated model has random weights and follows no instructions"}


def accepted(model: ModelConfig, server: ServerConfig) -> tuple[Accepted, ...]:
    """Findings that are accepted if the configuration does not set ``stages.security.accept``.

    Findings of severity high are never among them: if routes stay open although a key is set, the user has to decide.
    """
    found: dict[str, str] = {}
    if not server.api_key_env and not server.generate_api_key:
        found |= _NO_KEY
    if not any((model.path, model.name, model.ref, model.wheel)):
        found |= _TINY
    listed = (AcceptedFinding(id=name, reason=reason, until=UNTIL, by_default=True) for name, reason in found.items())
    return (_VLLM, *listed)
