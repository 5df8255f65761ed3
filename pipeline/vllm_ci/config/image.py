"""Section ``image:`` of ``vllm-ci.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from vllm_ci.config.paths import InImage, InRepository, InRepositoryOrWhole, OfMachine, OverlayTarget, Pattern
from vllm_ci.config.section import Section
from vllm_ci.domain.image_spec import Compile, Compression, ImageSpec, Overlay, VllmSource


class OverlayConfig(Section):
    """Files of the commit and where they are copied to in the image."""

    from_: Annotated[InRepositoryOrWhole, Field(alias="from")]
    """Path of a file or directory, relative to this file's directory (`.` for all of it); only files in git are copied."""
    to: OverlayTarget
    """Absolute path in the image; for one file its path, or with a slash at the end the directory that it goes into."""
    exclude: tuple[Pattern, ...] = ()
    """Patterns of paths below it to leave out."""


class CompileConfig(Section):
    """How to compile a wheel for a commit that changes compiled files: a target of the commit's Dockerfile."""

    dockerfile: InRepository = "docker/Dockerfile"
    """Path in the repository."""
    target: str = "build"
    """Stage that builds the wheel."""
    wheels: InImage = "/workspace/dist"
    """Folder in that stage that contains the wheel."""
    arguments: dict[str, str] = Field(default_factory=dict)
    """Build arguments."""
    program: Literal["", "docker", "podman", "buildah"] = ""
    """Program that builds it; by default the first one that is installed."""


class VllmConfig(Section):
    """For repositories of vLLM itself: the commit is built into the image in the cheapest way that gives a correct result."""

    package: InRepository = "vllm"
    """Folder of the Python package."""
    project: str = ""
    """The project in the lock that it replaces; by default the one named vllm or vllm-*."""
    release: str = ""
    """Revision that the locked wheel was built from; by default the tag v and its version."""
    wheels: tuple[str, ...] = ()
    """Folders, or roots of package indexes, with wheels of commits; {sha} is replaced by the commit."""
    inputs: tuple[InRepository, ...] = VllmSource().inputs
    """Paths that compiled files are built from (patterns allowed in the last component)."""
    requirements: tuple[InRepository, ...] = ()
    """Requirement files that the image must satisfy, e.g. requirements/cuda.txt."""
    compile: CompileConfig | None = None
    """How to compile a commit that no wheel matches; by default such a commit is refused."""

    def domain(self) -> VllmSource:
        """Convert to the builder's type."""
        compiled = Compile(**self.compile.model_dump()) if self.compile else None
        return VllmSource(**{**self.model_dump(exclude={"compile"}), "compile": compiled})


class ImageConfig(Section):
    """The image to build from a commit."""

    spec: OfMachine = "cpu"
    """Name of a built-in image spec (cpu, cuda), or the path of a spec, relative to this file."""
    repository: str = ""
    """Name of the image without tag and digest; by default the spec's."""
    overlays: tuple[OverlayConfig, ...] = ()
    """Files of the commit to copy over the spec's wheels."""
    vllm: VllmConfig | None = None
    """Set this (`vllm: {}`) if this repository is vLLM itself."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables in addition to the spec's."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels in addition to those of every image."""
    platforms: tuple[str, ...] = ()
    """Platforms to build (linux/amd64, linux/arm64); by default the platform of the build machine."""
    compression: Compression | None = None
    """gzip (all container engines) or zstd (Docker 23 or newer); by default the spec's."""

    def image_spec(self, folder: Path, name: str | None = None, *, targets: tuple[str, ...] = ()) -> ImageSpec:
        """The image spec with what this section says over it.

        Args:
            folder: That relative paths start from.
            name: Spec to take in place of the section's: a shipped one or a path.
            targets: Platforms to build; by default those of the section.

        Raises:
            ConfigError: The spec is not valid, or does not fit this section.
            UsageError: There is no such spec.
        """
        from vllm_ci.images import spec_file  # most commands read a configuration and build nothing

        plain = spec_file.load(name or self.place(folder), targets=targets or self.platforms)
        return spec_file.check(plain.changed(**self.over(dict(plain.env), dict(plain.labels))))

    def place(self, folder: Path) -> str:
        """The spec as an argument for :func:`vllm_ci.images.spec_file.load`; paths are relative to ``folder``."""
        named = "/" in self.spec or self.spec.endswith((".yaml", ".yml"))
        return str(folder / self.spec) if named else self.spec or "cpu"

    def over(self, env: dict[str, str], labels: dict[str, str]) -> dict[str, Any]:
        """Attributes of :class:`~vllm_ci.domain.image_spec.ImageSpec` that this section replaces.

        Args:
            env: The spec's own environment.
            labels: The spec's own labels.
        """
        changed: dict[str, Any] = {
            "overlays": tuple(Overlay(source=item.from_, target=item.to, exclude=item.exclude) for item in self.overlays),
            "env": {**env, **self.env},
            "labels": {**labels, **self.labels},
        }
        if self.vllm is not None:
            changed["vllm"] = self.vllm.domain()
        if self.repository:
            changed["repository"] = self.repository
        if self.compression:
            changed["compression"] = self.compression
        return changed
