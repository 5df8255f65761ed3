"""From a commit to a tested vLLM image: build it, serve it, run the stages, release it.

The same commands as vllm-ci, with the same verdicts and digests: `dagger call --source . test` and `ci/run` agree.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import dagger
from dagger import Doc, check, object_type

from vllm_ci.module.arguments import Settings, opening
from vllm_ci.module.caching import cached_for_the_session, never_cached
from vllm_ci.module.image import Image
from vllm_ci.module.models import Models
from vllm_ci.module.release import Release
from vllm_ci.module.retraining import Retraining
from vllm_ci.module.run import Run

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _up(function: _Function) -> _Function:
    """Mark a service for `dagger up`, if the engine's SDK supports that."""
    mark: Callable[[_Function], _Function] = getattr(dagger, "up", lambda each: each)
    return mark(function)


@object_type
class VllmCi(Settings):
    """From a commit to a tested vLLM image: build it, serve it, run the stages, release it."""

    @cached_for_the_session
    async def build(self) -> Image:
        """Build the image of the commit; return it with digest, reference, container, tarball and push."""
        from vllm_ci.module import work

        return await work.built(self)

    # Once per session, so that a shell can take report and verdict from one run: run=$(run ...); $run | report ...
    @cached_for_the_session
    async def run(
        self,
        stages: Annotated[list[str] | None, Doc("Stages to run; by default all enabled ones")] = None,
        deep: Annotated[bool, Doc("Run every case at full size, without a time budget")] = False,
        server: Annotated[dagger.Service | None, Doc("Test this server (tcp://host:port) instead of building an image")] = None,
        model: Annotated[str, Doc("Model name on the given server; by default the first that it lists")] = "",
    ) -> Run:
        """Build the image of the commit, serve it and run the stages; return verdict, report and results."""
        from vllm_ci.module import work

        return await work.ran(self, stages, deep=deep, server=server, model=model)

    @never_cached
    @_up
    async def serve(self) -> dagger.Service:
        """Build the image of the commit and return its server, for manual use: `up --ports 8000:8000`."""
        from vllm_ci.module import work

        return await work.served(self)

    @never_cached
    async def bench(
        self,
        server: Annotated[dagger.Service | None, Doc("Server to measure (tcp://host:port), instead of the commit's")] = None,
        url: Annotated[str, Doc("URL of the server to measure, instead of the commit's")] = "",
        model: Annotated[str, Doc("Model name on the server; by default the first that it lists")] = "",
        workload: Annotated[str, Doc("Workload: chat, code, long-context, multi-turn, shared-prefix or structured")] = "chat",
        rate: Annotated[float, Doc("Requests per second of an open loop; by default a closed loop")] = 0.0,
        concurrency: Annotated[int, Doc("Conversations at a time of a closed loop; by default 8")] = 0,
        duration: Annotated[str, Doc("Duration of the load: 90, 90s, 10m, 1h; by default 60 s")] = "",
        ttft: Annotated[float, Doc("Objective: largest time to first token in ms")] = 0.0,
        tpot: Annotated[float, Doc("Objective: largest time per further token in ms")] = 0.0,
        sweep: Annotated[bool, Doc("Search the highest rate that meets the objective")] = False,
        overload: Annotated[bool, Doc("Send more than the server can serve, between two calm phases")] = False,
        as_json: Annotated[bool, Doc("Return JSON")] = False,
    ) -> str:
        """Measure a server under load and return the figures; fail unless they can be trusted and no request failed."""
        from vllm_ci.module import bench

        options: dict[str, str | float | bool] = {"model": model, "workload": workload, "duration": duration}
        options |= {"rate": rate, "concurrency": concurrency, "ttft": ttft, "tpot": tpot}
        options |= {"sweep": sweep, "overload": overload, "json": as_json}
        return await bench.measured(self, server, url, options)

    @never_cached
    @check
    async def test(self) -> str:
        """Run all enabled stages and return a table of results; fail unless all pass."""
        from vllm_ci.module import work

        return await work.checked(self)

    @never_cached
    @check
    async def unit(self) -> str:
        """Run the unit stage inside the image; fail unless it passes."""
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
        """Check the engine: version, GPUs, disk, garbage collection and content of the cache volume."""
        from vllm_ci.module import doctor

        return await doctor.checked(self)

    release = cached_for_the_session(
        opening(Release, "release", "Release the project with the given credentials: publish, promote, roll back, verify.")
    )

    model = cached_for_the_session(
        opening(Models, "model", "Open the models of the project with the given credentials: add, pull, verify, move aliases.")
    )

    retrain = cached_for_the_session(
        opening(Retraining, "retrain", "Open a retraining with the given credentials: check it, run it.")
    )
