"""The whole of ``vllm-ci.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from vllm_ci.config.channels import ReleaseConfig
from vllm_ci.config.deploy import DeployConfig
from vllm_ci.config.image import ImageConfig
from vllm_ci.config.matrix import MatrixConfig
from vllm_ci.config.models import ModelsConfig
from vllm_ci.config.monitoring import MonitoringConfig
from vllm_ci.config.paths import OfMachine
from vllm_ci.config.section import Section
from vllm_ci.config.server import ModelConfig, ServerConfig
from vllm_ci.config.stages import StagesConfig
from vllm_ci.domain import paths


def _python(value: str) -> str:
    if value in ("", "default"):
        return value
    path = paths.in_repository(value)
    if not path.endswith(".py"):
        raise ValueError("the pipeline is a Python file, e.g. ci/pipeline.py, or `default`")
    return path


PipelineFile = Annotated[str, AfterValidator(_python)]


class ReportConfig(Section):
    """Where reports go."""

    directory: OfMachine = ".vllm-ci/runs"
    """Folder that gets one folder per run; relative to this file."""


class ProjectConfig(Section):
    """What vllm-ci builds, serves, tests and releases for one project."""

    version: Literal[1] = 1
    """Version of this format."""
    name: Annotated[str, Field(pattern=r"^([a-z0-9]+([._-][a-z0-9]+)*)?$")] = ""
    """Name of the project; by default that of its folder."""
    engine: Literal["auto", "host", "dagger"] = "auto"
    """Where programs and services run."""
    pipeline: PipelineFile = ""
    """Python file with the pipeline, relative to this file; by default `ci/pipeline.py` where that is there. `default` is the
    pipeline of vllm-ci, whatever is there."""
    image: ImageConfig = Field(default_factory=ImageConfig)
    """Which image is built from a commit."""
    model: ModelConfig = Field(default_factory=ModelConfig)
    """Which model is served."""
    server: ServerConfig = Field(default_factory=ServerConfig)
    """How vLLM is served."""
    stages: StagesConfig = Field(default_factory=StagesConfig)
    """Which stages run, and what each of them asks."""
    matrix: MatrixConfig = Field(default_factory=MatrixConfig)
    """Other ways of serving the image that stages run against as well."""
    report: ReportConfig = Field(default_factory=ReportConfig)
    """Where reports go."""
    release: ReleaseConfig = Field(default_factory=ReleaseConfig)
    """Where releases go, who signs them, and what each channel asks."""
    monitoring: MonitoringConfig = Field(default_factory=MonitoringConfig)
    """Where metrics are, and what is expected of each channel."""
    deploy: DeployConfig = Field(default_factory=DeployConfig)
    """Where channels serve, and how a new release takes the place of the old one."""
    models: ModelsConfig = Field(default_factory=ModelsConfig)
    """Models in the repository of the images and their aliases, and models to choose with `--model`."""
