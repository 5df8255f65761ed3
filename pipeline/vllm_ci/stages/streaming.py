"""Streaming: streams are well formed, progressive, and equal to the non-streamed answer."""

from __future__ import annotations

from vllm_ci.stages.suite import ServerStage

STAGE = ServerStage(name="streaming")
