"""``retrain.yaml``: what a model is retrained from, how, and what the result must show."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from vllm_ci.config import load, request_logs
from vllm_ci.config.paths import OfMachine
from vllm_ci.config.section import Section
from vllm_ci.datasets import loading
from vllm_ci.datasets.collecting import collect
from vllm_ci.datasets.preparing import prepare
from vllm_ci.datasets.record import Fractions, Source, Split
from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.domain.events import Emit
from vllm_ci.images import spec_file
from vllm_ci.models import naming
from vllm_ci.models.naming import ModelRef
from vllm_ci.programs import FOLDER as PROGRAMS
from vllm_ci.retraining import prompts, rows
from vllm_ci.retraining.blessing import BlessingPolicy
from vllm_ci.retraining.plan import Answering, DataSet, Plan
from vllm_ci.retraining.training import Training
from vllm_ci.system import yaml_file

FILE_NAME = "retrain.yaml"
_SEE = "docs/retraining.md"
_Alias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Positive = Annotated[int, Field(ge=1)]


class DataConfig(Section):
    """What the model is trained and tested with: files to collect rows from, or a folder with prepared data."""

    folder: OfMachine = ""
    """Folder with prepared data, relative to this file: `train.jsonl`, `test.jsonl`, and perhaps `validation.jsonl`."""
    files: list[OfMachine] = Field(default_factory=list)
    """JSONL files to collect rows from, relative to this file; the content of a row decides its split, in every version."""
    train: list[OfMachine] = Field(default_factory=list)
    """Files whose rows are all trained on."""
    validation: list[OfMachine] = Field(default_factory=list)
    """Files whose rows only watch the loss."""
    test: list[OfMachine] = Field(default_factory=list)
    """Files whose rows are all held out."""
    requests: list[str] = Field(default_factory=list)
    """Channels whose request logs on this machine are collected from; the content of a row decides its split."""
    store: OfMachine = ".vllm-ci/data"
    """Folder of data sets (`vllm-ci data`), relative to this file."""
    keep_days: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Rows that are older than this are dropped."""
    regions: Annotated[list[str], Field(min_length=1)] = Field(default_factory=lambda: ["US"])
    """Countries whose telephone numbers are masked."""
    near: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Similarity from which two questions must not be in two splits."""
    fractions: Annotated[list[_Share], Field(min_length=3, max_length=3)] = Field(default_factory=lambda: [0.8, 0.1, 0.1])
    """Shares of training, validation and test among the rows of `files`."""

    @property
    def sources(self) -> tuple[tuple[str, Split | None], ...]:
        """Every file and the split of its rows."""
        named: dict[Split, list[str]] = {"train": self.train, "validation": self.validation, "test": self.test}
        declared = [(each, split) for split, files in named.items() for each in files]
        return (*((each, None) for each in self.files), *declared)

    @model_validator(mode="after")
    def _one_way(self) -> DataConfig:
        if bool(self.folder) == bool(self.sources or self.requests):
            raise ValueError("name either a folder with prepared data, or files or request logs to collect rows from")
        if abs(sum(self.fractions) - 1) > 1e-9:
            raise ValueError(f"the fractions sum up to {sum(self.fractions):g}, not 1")
        return self


class TrainConfig(Section):
    """How the model is trained."""

    image: str = "train"
    """Image for training: the shipped spec `train`, or the path of a spec, relative to this file."""
    method: Literal["lora", "full"] = "lora"
    """`lora` trains an adapter and merges it into the weights; `full` trains all weights."""
    objective: Literal["sft", "dpo"] = "sft"
    """`sft` learns the answers; `dpo` learns which of two answers is better, from rows with `chosen` and `rejected`."""
    beta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    """With `dpo`: how much the model is held to its base; a smaller value lets it go further."""
    epochs: _Positive = 3
    """How often each row is seen."""
    learning_rate: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 2e-4
    """Learning rate at its peak; `full` and `dpo` usually need a tenth of it, both together a hundredth."""
    batch_size: _Positive = 8
    """Rows at a time."""
    accumulate: _Positive = 1
    """Batches for each step of the optimizer."""
    max_tokens: _Positive = 1024
    """Conversations with more tokens are left out; their number is in the result."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 7
    """Seed of the order of rows, of new weights and of dropout."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of the adapter."""
    alpha: _Positive = 32
    """Scale of the adapter."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in the adapter."""
    targets: Annotated[list[str], Field(min_length=1)] = Field(default_factory=lambda: ["all-linear"])
    """Modules that get an adapter, e.g. `q_proj`; `all-linear` for all linear layers."""
    warmup: _Share = 0.05
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Weight decay of the optimizer."""
    save_every: _Positive = 25
    """Steps between two checkpoints."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Processors to use; 0 for all. The result is the same to the bit only with the same number."""
    gradient_checkpointing: bool = False
    """Compute activations twice, to need less memory."""
    gpus: Annotated[str, Field(pattern=r"^(none|all|[0-9]+)$")] = "none"
    """`none`, or the number of the device to train on (`all` is the first one)."""
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 24 * 3600.0
    """Longest time of the training, in seconds."""

    @model_validator(mode="after")
    def _used(self) -> TrainConfig:
        if "beta" in self.model_fields_set and self.objective != "dpo":
            raise ValueError("beta has no effect without `objective: dpo`")
        if self.objective == "dpo" and self.method == "lora" and "lm_head" in self.targets:
            raise ValueError("with `objective: dpo` the module lm_head cannot have an adapter: TRL would not train it")
        return self

    def domain(self) -> Training:
        """Convert to the type of the retraining code."""
        values = self.model_dump(exclude={"image", "gpus", "timeout_s"})
        return Training(**{**values, "targets": tuple(self.targets)})


class ValidateConfig(Section):
    """How the trained model is compared with the champion on `test.jsonl`, and what it must show."""

    match: Literal["exact", "json"] = "exact"
    """When an answer is right: `exact`, the same text but for spaces around it; `json`, the same JSON value."""
    max_tokens: _Positive = 256
    """Longest answer."""
    parallel: Annotated[int, Field(ge=1, le=256)] = 8
    """Rows that are asked at the same time."""
    rows: _Positive = 50
    """Fewest rows that a decision is made on."""
    margin: Annotated[float, Field(ge=-1, lt=1)] = 0.0
    """The accuracy must have risen by more than this share, at the lower end of its interval."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Confidence of the intervals."""
    loss_rise: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Most that the mean loss may rise, at the upper end of its interval."""
    lost: _Share = 0.05
    """Most rows that only the champion answers right, as a share of all rows."""
    prompts: OfMachine = ""
    """File with prompts whose answers are checked by patterns, relative to this file."""

    def policy(self) -> BlessingPolicy:
        """What the challenger must show."""
        return BlessingPolicy(**self.model_dump(exclude={"match", "max_tokens", "parallel", "prompts"}))

    def answering(self) -> Answering:
        """How models are asked."""
        return Answering(max_tokens=self.max_tokens, match=self.match, parallel=self.parallel)


class RetrainConfig(Section):
    """How a model is retrained."""

    version: Literal[1] = 1
    """Version of this format."""
    model: str
    """Model that gets a new version, by its name in `vllm-ci model`."""
    base: str
    """Version that is trained, e.g. `chat@v1` or `chat@sha256:...`."""
    data: DataConfig
    """What the model is trained and tested with."""
    train: TrainConfig = Field(default_factory=TrainConfig)
    """How the model is trained."""
    validate_: Annotated[ValidateConfig, Field(alias="validate")] = Field(default_factory=ValidateConfig)
    """How the trained model is compared with the champion, and what it must show."""
    promote: bool = False
    """Also move the alias of the champion to a blessed model."""
    champion: _Alias = "champion"
    """Alias of the model in use."""
    challenger: _Alias = "challenger"
    """Alias of the newest blessed model."""
    license: str = ""
    """Licence of the new version, e.g. `Apache-2.0`."""

    @model_validator(mode="after")
    def _two_aliases(self) -> RetrainConfig:
        if self.champion == self.challenger:
            raise ValueError(
                f"champion and challenger are one alias, {self.champion}: each new version would be in use at once"
            )
        return self


def read(path: Path) -> RetrainConfig:
    """Read and validate a file.

    Raises:
        ConfigError: It cannot be parsed or is not valid; the message has the file, the line and the nearest known name.
    """
    found = yaml_file.read(path, absent="create it, or name another file with --config", see=f"see {_SEE}")
    try:
        return RetrainConfig.model_validate(found.data)
    except ValidationError as error:
        raise load.explained(error, found, {}, model=RetrainConfig, see=_SEE) from error


def plan(config: RetrainConfig, path: Path, *, data: Path | None = None, reason: str = "") -> Plan:
    """What a file asks for.

    Args:
        config: Its content.
        path: The file; relative paths start from its folder.
        data: Folder with prepared data, in place of what the file names.
        reason: For the records.

    Raises:
        ConfigError: It names no version, no data or no image that there is.
    """
    folder = path.absolute().parent
    image = _image(config.train.image, folder)
    return Plan(
        name=naming.check_name(config.model),
        base=_base(config.base, path),
        data=_data(config, path, data),
        training=config.train.domain(),
        image=image,
        environment=_environment(image),
        gpus=config.train.gpus,
        timeout_s=config.train.timeout_s,
        answering=config.validate_.answering(),
        policy=config.validate_.policy(),
        prompts=prompts.read(folder / config.validate_.prompts) if config.validate_.prompts else (),
        promote=config.promote,
        champion=config.champion,
        challenger=config.challenger,
        licence=config.license,
        reason=reason,
    )


def _base(text: str, path: Path) -> ModelRef:
    try:
        ref = naming.parse(text)
    except UsageError as error:
        raise ConfigError(f"{path}: base is not valid", why=error.message, remedy=error.remedy) from error
    if not ref.version and not ref.digest:
        raise ConfigError(
            f"{path}: base names no version: {text}",
            why="an alias, or the newest version, is another model afterwards: the next run would train on top of it",
            remedy="write the version, e.g. chat@v1 (vllm-ci model list shows them; vllm-ci model add makes one)",
        )
    return ref


def _data(config: RetrainConfig, path: Path, given: Path | None) -> Callable[[Path, Emit], DataSet]:
    """What gives the data, after all that can be checked now was checked."""
    folder = path.absolute().parent
    if given or config.data.folder:
        return _prepared(given or folder / config.data.folder, path, preferences=config.train.objective == "dpo")
    for name, _ in config.data.sources:
        if not (folder / name).is_file():
            raise ConfigError(f"{path}: data: there is no file {folder / name}", remedy="name a JSONL file")

    def collected(base: Path, emit: Emit) -> DataSet:
        data, into = config.data, folder / config.data.store
        sources = [Source(path=folder / name, split=split) for name, split in data.sources]
        with ExitStack() as held:
            if data.requests:
                sources += held.enter_context(request_logs.sources(load.load(load.find(folder)), data.requests))
            rows_of = collect(sources, into=into, keep_days=data.keep_days, regions=tuple(data.regions), emit=emit)
        train, validation, test = data.fractions
        found = prepare(
            rows_of,
            model=base,
            into=into,
            fractions=Fractions(train=train, validation=validation, test=test),
            near=data.near,
            max_tokens=config.train.max_tokens,
            emit=emit,
        )
        return DataSet(folder=found.folder, versions={"collected data": rows_of.digest, "prepared data": found.digest})

    return collected


def _prepared(folder: Path, path: Path, *, preferences: bool) -> Callable[[Path, Emit], DataSet]:
    if not folder.is_dir():
        raise ConfigError(
            f"{path}: data.folder: there is no folder {folder}",
            remedy=f"make it, with {rows.TRAIN} and {rows.TEST} in it, or name another one",
        )
    loading.digests(folder)
    rows.check(folder, preferences=preferences)
    return lambda _base, _emit: DataSet(folder=folder, versions=loading.digests(folder))


def _image(named: str, folder: Path) -> str:
    """A spec as an argument of ``vllm-ci build``; the path of one is relative to the folder of the file."""
    return str(folder / named) if "/" in named or named.endswith((".yaml", ".yml")) else named


def _environment(image: str) -> dict[str, str]:
    """What a training runs in: digests of the image's spec and locks, and of the program."""
    spec = spec_file.load(image)
    places = {
        "spec": spec_file.find(image),
        "wheels": spec.wheels_lock,
        "packages": spec.debs_lock,
        "program": PROGRAMS / "train_model.py",
    }
    try:
        return {name: hashlib.sha256(place.read_bytes()).hexdigest() for name, place in places.items()}
    except OSError as error:
        raise ConfigError(f"the image {image} is not locked", why=str(error), remedy=f"vllm-ci lock --image {image}") from error
