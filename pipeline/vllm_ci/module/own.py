"""A pipeline of the user's own (``ci/pipeline.py``), taken out of the source and imported."""

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
    """The project's own pipeline; ``None`` is the default one.

    While it lasts, the working directory has the folder of that file, so that messages name it as in the checkout.

    Raises:
        ConfigError: The file that the configuration names does not exist, or cannot be imported.
    """
    named = loaded.config.pipeline
    path = posixpath.normpath(posixpath.join(posixpath.dirname(settings.config), named or PLACE))
    if named == DEFAULT or not await settings.source.exists(path):
        if named not in {DEFAULT, ""}:
            raise ConfigError(
                f"pipeline: there is no file {path}",
                remedy="correct the path, or remove `pipeline` to use the default pipeline",
            )
        yield None
        return
    folder = posixpath.dirname(path) or "."
    # Python alone: modules beside the file can be imported, and nothing large is copied.
    files = dag.directory().with_directory(folder, settings.source.directory(folder), include=["**/*.py"])
    with scratch.folder("pipeline-") as place, contextlib.chdir(place):
        await files.export(str(place))
        yield load(Path(place, path))
