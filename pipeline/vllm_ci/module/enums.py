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
    """Which image is built."""

    # An enumeration cannot be left out: the engine looks for the name of its default.
    CONFIGURED = ""
    """The one that the configuration names."""
    CPU = "cpu"
    """The image spec cpu of vllm-ci: vLLM for machines without a GPU."""
    CUDA = "cuda"
    """The image spec cuda of vllm-ci: vLLM for NVIDIA GPUs."""
