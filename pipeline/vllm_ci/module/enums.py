"""Enumerations of the module: members in capitals, each with a description.

The SDK reads descriptions from the source: the string below each member.
"""

import enum

from dagger import enum_type


@enum_type
class Verdict(enum.Enum):
    """How a run or a stage ended."""

    PASSED = "passed"
    """All checks passed."""
    FAILED = "failed"
    """A check failed."""
    ERRORED = "errored"
    """No verdict: the pipeline itself failed."""
    INCONCLUSIVE = "inconclusive"
    """Measured, but the result is not conclusive."""


@enum_type
class Variant(enum.Enum):
    """Image variant to build."""

    # An enumeration argument cannot be optional: the engine looks up the name of its default.
    CONFIGURED = ""
    """The configured image spec."""
    CPU = "cpu"
    """The built-in image spec cpu: vLLM for machines without a GPU."""
    CUDA = "cuda"
    """The built-in image spec cuda: vLLM for NVIDIA GPUs."""
