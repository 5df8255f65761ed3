"""The default pipeline; copy it to ``ci/pipeline.py`` as a starting point for your own."""

from __future__ import annotations

from contextlib import suppress

from vllm_ci.domain.errors import ErroredError
from vllm_ci.domain.report import Report
from vllm_ci.domain.variant import Variant
from vllm_ci.pipeline.api import Pipeline
from vllm_ci.pipeline.handles import Image


async def pipeline(ci: Pipeline) -> Report:
    """Build the image, serve it, test it, report."""
    ci.expect()  # every configured stage is in the report, whatever fails
    image = await ci.build()
    await ci.together(inside(ci, image), against_a_server(ci, image))
    for variant in ci.variants():  # with --matrix: other ways of serving the same image
        with suppress(ErroredError):  # a server that does not start is reported in its own rows
            await against_a_server(ci, image, variant)
    await ci.test(image, *ci.exclusive_stages)  # measures time: nothing else runs now
    return ci.report()


async def inside(ci: Pipeline, image: Image) -> None:
    """Test the image itself: this needs no server, and runs while the server starts."""
    await ci.test(image, *ci.image_stages)


async def against_a_server(ci: Pipeline, image: Image, variant: Variant | None = None) -> None:
    """Serve the image and test the server."""
    stages = ci.stages_for(variant)
    if stages:
        async with ci.serve(image, variant) as server:
            await ci.test(server, *stages)
