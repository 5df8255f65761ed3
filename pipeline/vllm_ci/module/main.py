"""From a commit to a tested vLLM image: build it, serve it, run the stages, release it.

The same verbs as the command line, with the same verdicts and digests: `dagger call --source . test` and `ci/run` agree.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import dagger
from dagger import Doc, check, object_type

from vllm_ci.module.arguments import Settings, opening
from vllm_ci.module.caching import cached_for_the_session, never_cached
from vllm_ci.module.image import Image
from vllm_ci.module.release import Release
from vllm_ci.module.run import Run

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _up(function: _Function) -> _Function:
    """A service for `dagger up`, where the engine's SDK knows of them."""
    mark: Callable[[_Function], _Function] = getattr(dagger, "up", lambda each: each)
    return mark(function)


@object_type
class VllmCi(Settings):
    """From a commit to a tested vLLM image: build it, serve it, run the stages, release it."""

    @cached_for_the_session
    async def build(self) -> Image:
        """Build the image of the commit: digest, reference, container, tarball, push."""
        from vllm_ci.module import work

        return await work.built(self)

    # Once a session, so that a shell can take report and verdict from one run: run=$(run ...); $run | report ...
    @cached_for_the_session
    async def run(
        self,
        stages: Annotated[list[str] | None, Doc("Stages to run; by default those that the configuration enables")] = None,
        deep: Annotated[bool, Doc("Run every case at its full size, however long it takes: no budget")] = False,
        server: Annotated[dagger.Service | None, Doc("Test this server (tcp://host:port) instead; nothing is built")] = None,
        model: Annotated[str, Doc("Name that the given server knows its model by; by default the first it lists")] = "",
    ) -> Run:
        """Build the image of the commit, serve it, run the stages: verdict, report, results of stages."""
        from vllm_ci.module import work

        return await work.ran(self, stages, deep=deep, server=server, model=model)

    @never_cached
    @_up
    async def serve(self) -> dagger.Service:
        """Build the image of the commit and return its server, to try it by hand: `up --ports 8000:8000`."""
        from vllm_ci.module import work

        return await work.served(self)

    @never_cached
    @check
    async def test(self) -> str:
        """Run all stages that the configuration enables and print their table; fail unless all pass."""
        from vllm_ci.module import work

        return await work.checked(self)

    @never_cached
    @check
    async def unit(self) -> str:
        """Run the unit stage, inside the image; fail unless it passes."""
        from vllm_ci.module import work

        return await work.checked(self, "unit")

    @never_cached
    @check
    async def integration(self) -> str:
        """Run the integration stage against the server; fail unless it passes."""
        from vllm_ci.module import work

        return await work.checked(self, "integration")

    @never_cached
    @check
    async def streaming(self) -> str:
        """Run the streaming stage against the server; fail unless it passes."""
        from vllm_ci.module import work

        return await work.checked(self, "streaming")

    @never_cached
    @check
    async def security(self) -> str:
        """Run the security stage against image and server; fail unless it passes."""
        from vllm_ci.module import work

        return await work.checked(self, "security")

    @never_cached
    async def doctor(self) -> str:
        """Tell what the engine has: its version, GPUs, disk, garbage collection, and what the cache volume holds."""
        from vllm_ci.module import doctor

        return await doctor.told(self)

    release = cached_for_the_session(
        opening(
            Release, "release", "Release the project, with the credentials that it needs: publish, promote, roll back, verify."
        )
    )
