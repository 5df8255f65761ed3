"""Security findings that do not fail a project which says nothing: vLLM's own, and those of a server made for one test."""

from __future__ import annotations

import datetime as dt

from vllm_ci.config.server import ModelConfig, ServerConfig
from vllm_ci.domain.stage import AcceptedFinding

UNTIL = dt.date(2027, 12, 31)
"""Looked at again with each version of vLLM that the shipped images take; at the latest on this day they fail again."""

# What vLLM 0.32 does by itself, as released: no commit of a user's brought it. Nothing here lets anyone in.
_VLLM = {
    "server-error:schema-of-itself": "vLLM 0.32 answers 500 where 400 is right; it goes on serving",
    "server-error:grammar-of-itself": "vLLM 0.32 answers 500 where 400 is right; it goes on serving",
    "server-error:lone-surrogate-stop": "vLLM 0.32 answers 500 where 400 is right; it goes on serving",
    "giant-header": "vLLM 0.32 sets no limit to headers; the gateway in front of a server has one",
}
_NO_KEY = {"no-authentication": "the project names no API key, and the server lives on this machine for this test only"}
_TINY = {"special-token-injection": "the model made on the spot has random weights and follows no instructions"}


def accepted(model: ModelConfig, server: ServerConfig) -> tuple[AcceptedFinding, ...]:
    """What is accepted where the configuration has no ``stages.security.accept`` of its own.

    Findings of severity high are never among them: routes that stay open although a key is set are the user's to decide on.
    """
    found = dict(_VLLM)
    if not server.api_key_env and not server.generate_api_key:
        found |= _NO_KEY
    if not model.path and not model.name:
        found |= _TINY
    return tuple(AcceptedFinding(id=name, reason=reason, until=UNTIL, by_default=True) for name, reason in found.items())
