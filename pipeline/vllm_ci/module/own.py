"""Import a user's pipeline (``ci/pipeline.py``) from the source."""

import contextlib
import posixpath
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dagger import dag

from vllm_ci.config.load import Loaded
from vllm_ci.config.pipeline_file import DEFAULT, PLACE
from vllm_ci.domain.errors import ConfigError
from vllm_ci.module.arguments import Settings
from vllm_ci.pipeline.loading import OwnPipeline, load
from vllm_ci.system import scratch


@asynccontextmanager
async def pipeline(settings: Settings, loaded: Loaded) -> AsyncIterator[OwnPipeline | None]:
    """The project's pipeline; ``None`` means the default one.

    During the context, the working directory contains the directory of that file, so that messages show its path in the
    checkout.

    Raises:
        ConfigError: The configured file does not exist, or cannot be imported.
    """
    named = loaded.config.pipeline
    path = posixpath.normpath(posixpath.join(posixpath.dirname(settings.config), named or PLACE))
    if named == DEFAULT or not await settings.source.exists(path):
        if named not in {DEFAULT, ""}:
            raise ConfigError(
                f"pipeline: file not found: {path}",
                remedy="correct the path, or remove `pipeline` to use the default pipeline",
            )
        yield None
        return
    folder = posixpath.dirname(path) or "."
    # Only Python files: modules next to the file can be imported, and nothing large is copied.
    files = dag.directory().with_directory(folder, settings.source.directory(folder), include=["**/*.py"])
    with scratch.folder("pipeline-") as place, contextlib.chdir(place):
        await files.export(str(place))
        yield load(Path(place, path))
