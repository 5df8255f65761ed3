"""Section ``models:`` of ``vllm-ci.yaml``, and the model commands' settings made of a configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from vllm_ci.config.section import Section
from vllm_ci.config.server import NamedModelConfig
from vllm_ci.domain.events import Emit, ignore
from vllm_ci.domain.project import Project
from vllm_ci.domain.report import ServedModel

if TYPE_CHECKING:
    from vllm_ci.config.load import Loaded
    from vllm_ci.config.releases import Releases
    from vllm_ci.models.policy import AliasPolicy
    from vllm_ci.models.setup import ModelSetup


class AliasConfig(Section):
    """An alias of models and its policy. A model always needs a valid signature and a provenance."""

    signers: Annotated[list[str], Field(min_length=1)] = Field(default_factory=list)
    """Signers whose evidence is accepted, by their names in `release.signers`; by default all of them."""
    licenses: Annotated[list[str], Field(min_length=1)] = Field(default_factory=list)
    """Licences that a model may have, e.g. `Apache-2.0`; by default any, also none."""
    after: str = ""
    """Alias that must have pointed to the version before."""
    evaluation: bool = False
    """A signed evaluation must have found it better than the version that the alias points to (`vllm-ci retrain` makes one)."""

    def domain(self) -> AliasPolicy:
        """Convert to the type of the model code."""
        from vllm_ci.models.policy import AliasPolicy

        return AliasPolicy(
            signers=tuple(self.signers), licenses=tuple(self.licenses), after=self.after, evaluation=self.evaluation
        )


def _aliases() -> dict[str, AliasConfig]:
    return {"champion": AliasConfig(), "challenger": AliasConfig()}


class ModelsConfig(Section):
    """Models in the repository of the images, and their aliases."""

    aliases: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")], AliasConfig] = Field(default_factory=_aliases)
    """The aliases that a model can have; by default `champion` and `challenger`."""
    named: dict[Annotated[str, Field(pattern=r"^[a-z0-9]+([._-][a-z0-9]+)*$")], NamedModelConfig] = Field(default_factory=dict)
    """Models that `--model NAME` chooses in place of `model`."""

    @model_validator(mode="after")
    def _known(self) -> ModelsConfig:
        if "tiny" in self.named:
            raise ValueError("named.tiny: tiny is the generated model; use another name")
        if using := [name for name, each in self.named.items() if each.use]:
            raise ValueError(f"named.{using[0]}: a model in models.named cannot use another one")
        for name, each in self.aliases.items():
            if name[0] == "v" and name[1:].isdecimal():
                raise ValueError(f"aliases.{name} looks like a version")
            if each.after and (each.after not in self.aliases or each.after == name):
                raise ValueError(f"aliases.{name}.after names {each.after}, which is not another alias")
        return self


def resolved(loaded: Loaded, project: Project, *, emit: Emit = ignore) -> tuple[Project, ServedModel | None]:
    """The project with ``model.ref`` as a folder of this machine, and which version that is: pulled, and verified.

    Raises:
        UsageError: There is no such model, version or alias.
        FailedError: Nobody who is trusted signed it, or a file of it was altered.
        RegistryError: The registry broke or refused.
    """
    if not project.model.ref:
        return project, None
    from vllm_ci.config import releases
    from vllm_ci.models import naming, pulling

    pulled = pulling.pull(of(releases.of(loaded)), naming.parse(project.model.ref), emit=emit)
    model = replace(project.model, path=str(pulled.folder), file=pulled.model.gguf)
    record = pulled.record
    served = ServedModel(ref=project.model.ref, name=record.model, version=f"v{record.version}", digest=record.digest)
    return replace(project, model=model), served


def of(found: Releases) -> ModelSetup:
    """The model settings that belong to release settings: the same repository, ledger, key and signers."""
    from vllm_ci.models.ledger import ModelLedger
    from vllm_ci.models.setup import ModelSetup

    setup = found.setup
    return ModelSetup(
        repository=setup.repository,
        subject=setup.subject,
        ledger=ModelLedger(setup.ledger),
        aliases={name: each.domain() for name, each in found.loaded.config.models.aliases.items()},
        signers=setup.signers,
        key=setup.key,
        access=setup.access,
    )
