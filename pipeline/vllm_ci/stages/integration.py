"""Integration: the API follows the OpenAI wire format and vLLM's documentation."""

from __future__ import annotations

from vllm_ci.stages.suite import ServerStage

STAGE = ServerStage(name="integration")
