"""From a commit to a signed, tested, traceable, live vLLM.

The names below are the public interface for pipelines in Python (docs/api.md). Each is loaded when it is first used: importing
the package loads nothing but this file, as builder and suites must work where neither Dagger nor HTTP clients are installed.
``__init__.pyi`` beside this file has the same names for type checkers; a test compares.
"""

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "Pipeline": "vllm_ci.pipeline.api",
    "open_pipeline": "vllm_ci.api",
    "run_pipeline": "vllm_ci.api",
    "Source": "vllm_ci.pipeline.source",
    "Commit": "vllm_ci.domain.commit",
    "Image": "vllm_ci.pipeline.handles",
    "Server": "vllm_ci.pipeline.handles",
    "stage": "vllm_ci.pipeline.function_stage",
    "Stage": "vllm_ci.stages.stage",
    "StageContext": "vllm_ci.stages.stage",
    "StageSpec": "vllm_ci.domain.stage",
    "Program": "vllm_ci.domain.program",
    "Outcome": "vllm_ci.domain.program",
    "Report": "vllm_ci.domain.report",
    "StageResult": "vllm_ci.domain.report",
    "Case": "vllm_ci.domain.report",
    "CaseStatus": "vllm_ci.domain.report",
    "Verdict": "vllm_ci.domain.report",
    "verdict_of": "vllm_ci.domain.report",
    "Variant": "vllm_ci.domain.variant",
    "Engine": "vllm_ci.engine",
    "MemoryEngine": "vllm_ci.engines.memory",
    "Ends": "vllm_ci.engines.scripts",
    "passes": "vllm_ci.engines.memory",
    "fails": "vllm_ci.engines.memory",
    "times_out": "vllm_ci.engines.memory",
    "hangs": "vllm_ci.engines.memory",
    "kills_the_server": "vllm_ci.engines.memory",
    "VllmCiError": "vllm_ci.domain.errors",
    "UsageError": "vllm_ci.domain.errors",
    "ConfigError": "vllm_ci.domain.errors",
    "ErroredError": "vllm_ci.domain.errors",
    "BuildError": "vllm_ci.domain.errors",
    "EngineError": "vllm_ci.domain.errors",
    "ServiceError": "vllm_ci.domain.errors",
    "PipelineError": "vllm_ci.pipeline.errors",
}
__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604 - all are strings


def __getattr__(name: str) -> object:
    """A public name, loaded when it is first used."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_PUBLIC[name]), name)
    return found


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
