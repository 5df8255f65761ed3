"""Enumerations as Dagger shows them: members in capitals, each with its description.

The SDK reads the descriptions of members from the source, so each stands below its member.
"""

import enum

from dagger import enum_type


@enum_type
class Verdict(enum.Enum):
    """How a run or a stage ended."""

    PASSED = "passed"
    """Everything that was checked is good."""
    FAILED = "failed"
    """Something that was checked is not good."""
    ERRORED = "errored"
    """No verdict: the pipeline itself failed."""
    INCONCLUSIVE = "inconclusive"
    """Measured, and not decisive."""


@enum_type
class Variant(enum.Enum):
    """An image spec that comes with vllm-ci."""

    CPU = "cpu"
    """vLLM for processors without a GPU."""
    CUDA = "cuda"
    """vLLM for NVIDIA GPUs."""
