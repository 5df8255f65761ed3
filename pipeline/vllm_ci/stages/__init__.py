"""Stages: which programs judge a server or an image, and how their reports become a result."""

from __future__ import annotations

from vllm_ci.stages import integration, security, streaming, unit
from vllm_ci.stages.stage import Stage, StageContext

# In the order in which they are run: what is cheap and tells most comes first.
STAGES: dict[str, Stage] = {stage.name: stage for stage in (unit.STAGE, integration.STAGE, streaming.STAGE, security.STAGE)}

__all__ = ["STAGES", "Stage", "StageContext"]
