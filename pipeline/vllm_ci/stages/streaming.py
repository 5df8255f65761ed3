"""Streaming: streams are well formed, progressive, and say the same as an answer in one piece."""

from __future__ import annotations

from vllm_ci.stages.suite import ServerStage

STAGE = ServerStage(name="streaming")
