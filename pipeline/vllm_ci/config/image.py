"""``image:`` of ``vllm-ci.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vllm_ci.config.section import Section
from vllm_ci.domain.spec import Compression, Overlay


class OverlayConfig(Section):
    """Files of the commit and where they go in the image."""

    from_: Annotated[str, Field(alias="from", min_length=1)]
    """Path of a file or folder, relative to this file's folder; only what git tracks is taken."""
    to: Annotated[str, Field(pattern=r"^/[^/]")]
    """Absolute path in the image."""
    exclude: tuple[str, ...] = ()
    """Patterns of paths below it that stay out."""


class ImageConfig(Section):
    """Which image is built from a commit."""

    spec: str = "cpu"
    """Name of a shipped image spec (cpu, cuda) or path of one, relative to this file."""
    repository: str = ""
    """Name of the image without tag and digest; by default the spec's."""
    overlays: tuple[OverlayConfig, ...] = ()
    """Files of the commit that go over the spec's wheels."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables on top of the spec's."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels on top of those every image gets."""
    platforms: tuple[str, ...] = ()
    """Platforms to build (linux/amd64, linux/arm64); by default that of the machine that builds."""
    compression: Compression | None = None
    """gzip (every container engine) or zstd (Docker from version 23 on); by default the spec's."""

    def place(self, folder: Path) -> str:
        """The spec as :func:`vllm_ci.images.spec.load` takes it, relative paths starting from ``folder``."""
        named = "/" in self.spec or self.spec.endswith((".yaml", ".yml"))
        return str(folder / self.spec) if named else self.spec

    def over(self, env: dict[str, str], labels: dict[str, str]) -> dict[str, Any]:
        """Attributes of :class:`~vllm_ci.domain.spec.ImageSpec` that this section replaces.

        Args:
            env: The spec's own environment.
            labels: The spec's own labels.
        """
        changed: dict[str, Any] = {
            "overlays": tuple(Overlay(source=item.from_, target=item.to, exclude=item.exclude) for item in self.overlays),
            "env": {**env, **self.env},
            "labels": {**labels, **self.labels},
        }
        if self.repository:
            changed["repository"] = self.repository
        if self.compression:
            changed["compression"] = self.compression
        return changed
