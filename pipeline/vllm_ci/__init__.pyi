from vllm_ci.api import open_pipeline as open_pipeline
from vllm_ci.api import run_pipeline as run_pipeline
from vllm_ci.domain.commit import Commit as Commit
from vllm_ci.domain.errors import BuildError as BuildError
from vllm_ci.domain.errors import ConfigError as ConfigError
from vllm_ci.domain.errors import EngineError as EngineError
from vllm_ci.domain.errors import ErroredError as ErroredError
from vllm_ci.domain.errors import ServiceError as ServiceError
from vllm_ci.domain.errors import UsageError as UsageError
from vllm_ci.domain.errors import VllmCiError as VllmCiError
from vllm_ci.domain.program import Outcome as Outcome
from vllm_ci.domain.program import Program as Program
from vllm_ci.domain.report import Case as Case
from vllm_ci.domain.report import CaseStatus as CaseStatus
from vllm_ci.domain.report import Report as Report
from vllm_ci.domain.report import StageResult as StageResult
from vllm_ci.domain.report import Verdict as Verdict
from vllm_ci.domain.report import verdict_of as verdict_of
from vllm_ci.domain.stage import StageSpec as StageSpec
from vllm_ci.domain.variant import Variant as Variant
from vllm_ci.engine import Engine as Engine
from vllm_ci.engines.memory import MemoryEngine as MemoryEngine
from vllm_ci.engines.memory import fails as fails
from vllm_ci.engines.memory import hangs as hangs
from vllm_ci.engines.memory import kills_the_server as kills_the_server
from vllm_ci.engines.memory import passes as passes
from vllm_ci.engines.memory import times_out as times_out
from vllm_ci.engines.scripts import Ends as Ends
from vllm_ci.pipeline.api import Pipeline as Pipeline
from vllm_ci.pipeline.errors import PipelineError as PipelineError
from vllm_ci.pipeline.function_stage import stage as stage
from vllm_ci.pipeline.handles import Image as Image
from vllm_ci.pipeline.handles import Server as Server
from vllm_ci.pipeline.source import Source as Source
from vllm_ci.stages.stage import Stage as Stage
from vllm_ci.stages.stage import StageContext as StageContext

__version__: str
__all__ = [
    "BuildError",
    "Case",
    "CaseStatus",
    "Commit",
    "ConfigError",
    "Ends",
    "Engine",
    "EngineError",
    "ErroredError",
    "Image",
    "MemoryEngine",
    "Outcome",
    "Pipeline",
    "PipelineError",
    "Program",
    "Report",
    "Server",
    "ServiceError",
    "Source",
    "Stage",
    "StageContext",
    "StageResult",
    "StageSpec",
    "UsageError",
    "Variant",
    "Verdict",
    "VllmCiError",
    "__version__",
    "fails",
    "hangs",
    "kills_the_server",
    "open_pipeline",
    "passes",
    "run_pipeline",
    "stage",
    "times_out",
    "verdict_of",
]
