"""Variants of serving one image: the combinations of a matrix of data types, quantizations, shards and flags."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vllm_ci.domain.project import Project

# Quantizations that the tiny model can be generated with; all others are properties of the project's checkpoint.
_MADE = ("int8",)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One server of a matrix.

    Attributes:
        dtype: vLLM's ``--dtype``; empty leaves the project's own.
        quantization: ``int8`` generates the tiny model with 8-bit integers (compressed-tensors, W8A8); other names are vLLM's
            ``--quantization`` for the project's checkpoint.
        tensor_parallel_size: Number of shards, each on its own GPU, or on its own core without GPUs.
        adapter: Also serve a LoRA adapter.
        args: Further flags of vLLM.
        env: Further environment.
        label: Name; by default built from the attributes that are set.
    """

    dtype: str = ""
    quantization: str = ""
    tensor_parallel_size: int = 1
    adapter: bool = False
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        """Name for the rows of its stages: ``float16``, ``int8-tp2``."""
        parts = (
            self.dtype,
            self.quantization,
            f"tp{self.tensor_parallel_size}" if self.tensor_parallel_size > 1 else "",
            "lora" if self.adapter else "",
            *(argument.lstrip("-").replace("=", "-") for argument in self.args),
        )
        return self.label or "-".join(part for part in parts if part) or "same"

    def impossible(self, project: Project, *, gpus: int | None, cores: int | None) -> str:
        """Why an engine cannot serve this variant; empty when it can.

        Args:
            project: The project that the variant belongs to.
            gpus: Number of the engine's GPUs; ``None`` when unknown.
            cores: Number of the engine's processors; ``None`` when unknown.
        """
        tiny = project.model.tiny is not None
        if self.quantization and tiny and self.quantization not in _MADE:
            return f"the tiny model cannot be generated with {self.quantization}; name a checkpoint that has it"
        if self.quantization in _MADE and not tiny:
            return f"{self.quantization} is available for the tiny model only; name a quantized checkpoint instead"
        if self.adapter and not tiny:
            return "an adapter is generated for the tiny model only; use args: [--enable-lora, --lora-modules=...]"
        on_gpus = project.server.gpus != "none"
        have = gpus if on_gpus else cores
        if have is not None and self.tensor_parallel_size > have:
            return f"{self.tensor_parallel_size} shards need as many {'GPUs' if on_gpus else 'cores'}, but there are {have}"
        return ""

    def of(self, project: Project) -> Project:
        """A copy of the project that is served this way."""
        server, model = project.server, project.model
        args, env = [*server.args], {**server.env}
        if self.dtype:
            args.append(f"--dtype={self.dtype}")
        if self.quantization and self.quantization not in _MADE:
            args.append(f"--quantization={self.quantization}")
        if self.tensor_parallel_size > 1:
            args += [f"--tensor-parallel-size={self.tensor_parallel_size}", "--distributed-executor-backend=mp"]
            if server.gpus == "none":
                # One core for each shard: vLLM's automatic binding fails on machines with few cores.
                env["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(str(core) for core in range(self.tensor_parallel_size))
        if self.adapter:
            args += ["--enable-lora", "--max-lora-rank=8", f"--lora-modules={model.served_name}-lora={{in.model}}/adapter"]
        tiny = model.tiny
        if tiny is not None:
            made = self.quantization if self.quantization in _MADE else ""
            tiny = replace(tiny, quantization=made, adapter=self.adapter)
        return replace(
            project,
            model=replace(model, tiny=tiny),
            server=replace(server, args=(*args, *self.args), env={**env, **self.env}),
        )


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Stages, and the servers that they are run against.

    Attributes:
        stages: Names of the stages.
        variants: The servers, in order.
    """

    stages: tuple[str, ...]
    variants: tuple[Variant, ...]


def cross(
    axes: Mapping[str, Sequence[object]], include: Iterable[Variant] = (), exclude: Iterable[Mapping[str, object]] = ()
) -> tuple[Variant, ...]:
    """All combinations of ``axes`` (attribute of a variant to its values) except the excluded ones, then the included ones.

    A mapping excludes the combinations that equal it in all of its keys. Of variants with the same name the first is kept.
    """
    combinations = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())] if axes else []
    kept = [each for each in combinations if not any(rule.items() <= each.items() for rule in exclude)]
    variants = (*(Variant(**each) for each in kept), *include)  # type: ignore[arg-type]
    return tuple({variant.name: variant for variant in reversed(variants)}.values())[::-1]
