"""Integration: the API answers as the OpenAI wire format and vLLM's documentation say."""

from __future__ import annotations

from vllm_ci.stages.suite import ServerStage

STAGE = ServerStage(name="integration")
