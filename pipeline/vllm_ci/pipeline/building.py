"""The first step: build the image of a commit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_ci.domain.errors import BuildError, ConfigError
from vllm_ci.domain.events import Emit, step
from vllm_ci.domain.image import ImageLayer, ImageRef
from vllm_ci.domain.program import Directory, Program
from vllm_ci.domain.project import Project
from vllm_ci.engine import Engine
from vllm_ci.pipeline.record import SUMMARIES
from vllm_ci.pipeline.source import Source
from vllm_ci.pipeline.telling import failure

_TIMEOUT_S = 3 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Built:
    """A built image with its metadata.

    Attributes:
        image: Its reference.
        facts: Directory with ``build.json`` (the output of ``vllm-ci build --json``), ``config.json`` (the OCI image
            configuration) and ``manifest.json`` (the expected files).
        config: The OCI image configuration.
        summary: The content of ``build.json``.
    """

    image: ImageRef
    facts: Directory
    config: Mapping[str, Any]
    summary: Mapping[str, Any]

    @property
    def layers(self) -> tuple[ImageLayer, ...]:
        """The layers, the base first."""
        names = ("tier", "digest", "size_bytes", "platform")
        return tuple(ImageLayer(**{name: layer[name] for name in names if name in layer}) for layer in self.summary["layers"])


async def build(engine: Engine, project: Project, source: Source, emit: Emit) -> Built:
    """Build the image of the source's commit.

    Raises:
        BuildError: The build failed.
        ConfigError: The configuration cannot be built.
    """
    commit = source.commit
    with step(emit, "build", f"image of {commit.short}") as done:
        outcome = await engine.run(
            Program(
                name="build",
                argv=(
                    *("python", "-m", "vllm_ci", "build", commit.sha, "--json", "--facts", "{out}"),
                    *("--config", f"{{in.source}}/{project.config}", "--dirty" if commit.dirty else "--no-dirty"),
                    # An engine without containers runs the image from its unpacked files.
                    *(() if engine.capabilities.isolated else ("--unpack",)),
                    *project.build_args,
                ),
                inputs={"source": source.checkout},
                timeout_s=_TIMEOUT_S,
            )
        )
        if not outcome:
            found = failure(outcome.log)
            message = f"{SUMMARIES['build']}: {found['message']}"
            if outcome.exit_code == ConfigError.exit_code:
                raise ConfigError(message, why=found["why"], remedy=found["remedy"])
            raise BuildError(message, why=found["why"], remedy=found["remedy"], log=outcome.log)
        summary = json.loads(await outcome.output.read("build.json"))
        config = json.loads(await outcome.output.read("config.json"))
        image = summary["image"]
        ref = ImageRef(
            repository=image["reference"].partition("@")[0], digest=image["digest"], tags=tuple(image.get("tags", ()))
        )
        made = sum(layer["built"] for layer in summary["layers"])
        done(f"{ref.digest}, {made} of {len(summary['layers'])} layers built")
    return Built(image=ref, facts=outcome.output, config=config, summary=summary)
