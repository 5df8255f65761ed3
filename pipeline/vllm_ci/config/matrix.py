"""Section ``matrix:`` of ``vllm-ci.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vllm_ci.config.section import Section
from vllm_ci.domain.variant import Matrix, Variant, cross

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Shards = Annotated[int, Field(ge=1, le=1024)]


class AxesConfig(Section):
    """Values to combine; every combination is one server."""

    dtype: list[Dtype] = Field(default_factory=list)
    """Data types, vLLM's `--dtype`."""
    quantization: list[str] = Field(default_factory=list)
    """Quantizations; `int8` generates the tiny model with 8-bit integers, an empty name is none."""
    tensor_parallel_size: list[Shards] = Field(default_factory=list)
    """Numbers of shards."""
    adapter: list[bool] = Field(default_factory=list)
    """Whether to serve a LoRA adapter too."""

    def axes(self) -> dict[str, list[object]]:
        """The axes that have values."""
        return {name: list(getattr(self, name)) for name in type(self).model_fields if getattr(self, name)}


class VariantConfig(Section):
    """One way to serve the image."""

    name: str = ""
    """Name of its rows; by default built from the values that are set."""
    dtype: Dtype | Literal[""] = ""
    """Data type, vLLM's `--dtype`."""
    quantization: str = ""
    """`int8` generates the tiny model with 8-bit integers; other names are vLLM's `--quantization`."""
    tensor_parallel_size: Shards = 1
    """Number of shards."""
    adapter: bool = False
    """Also serve a LoRA adapter."""
    args: list[str] = Field(default_factory=list)
    """Further flags of vLLM."""
    env: dict[str, str] = Field(default_factory=dict)
    """Further environment variables."""

    def domain(self) -> Variant:
        """Convert to the pipeline's type."""
        values = self.model_dump()
        return Variant(label=values.pop("name"), args=tuple(values.pop("args")), **values)


class ExcludeConfig(Section):
    """Combinations to leave out: those with all of the given values."""

    dtype: Dtype | None = None
    """Data type."""
    quantization: str | None = None
    """Quantization."""
    tensor_parallel_size: Shards | None = None
    """Number of shards."""
    adapter: bool | None = None
    """Whether it serves an adapter."""


class MatrixConfig(Section):
    """Runs stages against several servers of the same image (`vllm-ci run --matrix`)."""

    stages: list[str] = Field(default_factory=lambda: ["integration", "streaming"])
    """Stages to run against each server."""
    axes: AxesConfig = Field(default_factory=AxesConfig)
    """Values to combine; every combination is one server."""
    include: list[VariantConfig] = Field(default_factory=list)
    """Additional servers."""
    exclude: list[ExcludeConfig] = Field(default_factory=list)
    """Combinations to leave out."""

    def domain(self) -> Matrix:
        """Convert to the pipeline's type."""
        excluded = [rule.model_dump(exclude_none=True) for rule in self.exclude]
        variants = cross(self.axes.axes(), [entry.domain() for entry in self.include], excluded)
        return Matrix(stages=tuple(self.stages), variants=variants)
