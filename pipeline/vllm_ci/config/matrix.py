"""``matrix:``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vllm_ci.config.section import Section
from vllm_ci.domain.variant import Matrix, Variant, cross

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Shards = Annotated[int, Field(ge=1, le=1024)]


class AxesConfig(Section):
    """Values that are crossed with each other."""

    dtype: list[Dtype] = Field(default_factory=list)
    """Data types, vLLM's `--dtype`."""
    quantization: list[str] = Field(default_factory=list)
    """Quantizations; `int8` makes the tiny model in 8-bit integers, an empty name is none."""
    tensor_parallel_size: list[Shards] = Field(default_factory=list)
    """Numbers of shards."""
    adapter: list[bool] = Field(default_factory=list)
    """With and without a LoRA adapter."""

    def axes(self) -> dict[str, list[object]]:
        """The axes that have values."""
        return {name: list(getattr(self, name)) for name in type(self).model_fields if getattr(self, name)}


class VariantConfig(Section):
    """One way to serve the image."""

    name: str = ""
    """Name of its rows; by default made of what differs."""
    dtype: Dtype | Literal[""] = ""
    """Data type, vLLM's `--dtype`."""
    quantization: str = ""
    """`int8` makes the tiny model in 8-bit integers; other names are vLLM's `--quantization`."""
    tensor_parallel_size: Shards = 1
    """Number of shards."""
    adapter: bool = False
    """Serve a LoRA adapter beside the model."""
    args: list[str] = Field(default_factory=list)
    """Further flags of vLLM."""
    env: dict[str, str] = Field(default_factory=dict)
    """Further environment variables."""

    def domain(self) -> Variant:
        """As the pipeline takes it."""
        values = self.model_dump()
        return Variant(label=values.pop("name"), args=tuple(values.pop("args")), **values)


class ExcludeConfig(Section):
    """A combination that is left out: what it says of the axes."""

    dtype: Dtype | None = None
    """Data type."""
    quantization: str | None = None
    """Quantization."""
    tensor_parallel_size: Shards | None = None
    """Number of shards."""
    adapter: bool | None = None
    """With or without an adapter."""


class MatrixConfig(Section):
    """Stages run again, each time against another server of the same image (`vllm-ci run --matrix`)."""

    stages: list[str] = Field(default_factory=lambda: ["integration", "streaming"])
    """Which stages run against each server."""
    axes: AxesConfig = Field(default_factory=AxesConfig)
    """Values that are crossed with each other."""
    include: list[VariantConfig] = Field(default_factory=list)
    """Further servers."""
    exclude: list[ExcludeConfig] = Field(default_factory=list)
    """Combinations that are left out."""

    def domain(self) -> Matrix:
        """As the pipeline takes it."""
        excluded = [rule.model_dump(exclude_none=True) for rule in self.exclude]
        variants = cross(self.axes.axes(), [entry.domain() for entry in self.include], excluded)
        return Matrix(stages=tuple(self.stages), variants=variants)
