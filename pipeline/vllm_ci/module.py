"""From a commit to a tested vLLM image: build it, serve it, run the stages, push it.

The same verbs as the command line, with the same verdicts and digests: `dagger call test --source .` and `ci/run` agree.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import dagger
from dagger import DefaultPath, Doc, Ignore, check, object_type

from vllm_ci import module_run, module_work, pipeline
from vllm_ci.config.load import FILE_NAME, GENERATED_KEY
from vllm_ci.engines.dagger_tool import PYTHON, Tool
from vllm_ci.module_cache import cached_for_the_session, never_cached
from vllm_ci.module_run import Run
from vllm_ci.module_work import Asked, Call, Work, watched

# Never part of a commit, and large. Leaving out tracked files would make every tree look dirty.
_IGNORED = ["**/.venv", "**/__pycache__", "**/.mypy_cache", "**/.ruff_cache", "**/.pytest_cache", "**/.tools", "**/.vllm-ci"]

Source = Annotated[dagger.Directory, DefaultPath("/"), Ignore(_IGNORED), Doc("Checkout of the repository, with its .git")]
Stages = Annotated[list[str] | None, Doc("Stages to run; by default those that the configuration enables")]
Variant = Annotated[str, Doc("Shipped image spec (cpu, cuda) or path of one; by default the configuration's")]
Gpus = Annotated[str, Doc("none, all or device numbers (0,1); by default the configuration's")]
Checkpoint = Annotated[dagger.Directory | None, Doc("Model to serve in place of the configuration's")]
Secrets = Annotated[list[dagger.Secret] | None, Doc("Secrets that the configuration names, e.g. env://HF_TOKEN")]
Server = Annotated[dagger.Service | None, Doc("Test this server (tcp://host:port) instead; nothing is built")]
Model = Annotated[str, Doc("Name that the given server knows its model by; by default the first it lists")]


@object_type
class VllmCi:
    """From a commit to a tested vLLM image: build it, serve it, run the stages, push it."""

    config: Annotated[str, Doc("Path of the configuration file in the source")] = FILE_NAME
    python_image: Annotated[str, Doc("Image that the tool runs in: Debian with Python; git in it saves time")] = (
        f"python:{PYTHON}-slim"
    )
    index: Annotated[dagger.Secret | None, Doc("URL of the package index, in place of the public one")] = None
    extra_index: Annotated[dagger.Secret | None, Doc("URL of a further package index")] = None
    debian_mirror: Annotated[dagger.Secret | None, Doc("Roots of Debian mirrors, in place of the image's own")] = None
    proxy: Annotated[dagger.Secret | None, Doc("URL of the proxy for http and https")] = None
    certificates: Annotated[dagger.File | None, Doc("Certificate authorities to trust, in place of the image's own")] = None
    cache: Annotated[str, Doc("Cache volume that keeps packages, layers and images between builds")] = "vllm-ci"

    @never_cached
    async def build(self, source: Source, variant: Variant = "") -> str:
        """Build the image of the commit and return its digest."""
        async with self._call(Asked(source=source, config=self.config, variant=variant)) as work:
            return (await _built(work)).image.digest

    @never_cached
    async def image(self, source: Source, variant: Variant = "") -> dagger.Container:
        """Build the image of the commit and return a container of it, to chain on."""
        async with self._call(Asked(source=source, config=self.config, variant=variant)) as work:
            return work.engine.image((await _built(work)).image)

    @never_cached
    async def push(
        self,
        source: Source,
        registry: Annotated[str, Doc("Registry and name, e.g. registry.example.com/team/vllm")],
        username: Annotated[dagger.Secret | None, Doc("User name for the registry")] = None,
        password: Annotated[dagger.Secret | None, Doc("Password or token for the registry")] = None,
        registry_service: Annotated[dagger.Service | None, Doc("Where that registry is, if no name server knows it")] = None,
        variant: Variant = "",
    ) -> str:
        """Build the image of the commit, push it under the commit's tag, and return its reference: the digest is the same."""
        credentials = {"VLLM_CI_REGISTRY_USERNAME": username, "VLLM_CI_REGISTRY_PASSWORD": password}
        tool = replace(
            self._tool(),
            secrets={name: value for name, value in credentials.items() if value is not None},
            services={registry.partition("/")[0]: registry_service} if registry_service is not None else {},
        )
        async with Call(asked=Asked(source=source, config=self.config, variant=variant), tool=tool) as work:
            pushing = replace(work.project, build_args=(*work.project.build_args, "--push", registry))
            return (await _built(replace(work, project=pushing))).image.reference

    @never_cached
    async def serve(
        self,
        source: Source,
        variant: Variant = "",
        gpus: Gpus = "",
        checkpoint: Checkpoint = None,
        secrets: Secrets = None,
    ) -> dagger.Service:
        """Build the image of the commit and return its server, to try it by hand: `up --ports 8000:8000`."""
        asked = Asked(
            source=source, config=self.config, variant=variant, gpus=gpus, checkpoint=checkpoint, secrets=tuple(secrets or ())
        )
        async with self._call(asked) as work:
            built = await _built(work)
            with watched() as emit:
                model = await pipeline.model(work.engine, work.project, work.source, built.image, emit)
            server = work.project.server
            if server.api_key_env == GENERATED_KEY:
                server = replace(server, api_key_env="")  # a key that nobody knows would keep everybody out
            spec = pipeline.service(work.engine, replace(work.project, server=server), built, model)
            return (await work.engine.guarded(spec)).service()

    # Once a session, so that a shell can take report and verdict from one run: run=$(run ...); $run | report ...
    @cached_for_the_session
    async def run(
        self,
        source: Source,
        stages: Stages = None,
        variant: Variant = "",
        gpus: Gpus = "",
        checkpoint: Checkpoint = None,
        secrets: Secrets = None,
        server: Server = None,
        model: Model = "",
    ) -> Run:
        """Build the image of the commit, serve it, run the stages; a red run is a result with a report, too."""
        asked = Asked(
            source=source,
            config=self.config,
            stages=tuple(stages or ()),
            variant=variant,
            gpus=gpus,
            checkpoint=checkpoint,
            secrets=tuple(secrets or ()),
        )
        async with self._call(asked) as work:
            with watched() as emit:
                if server is None:
                    result = await pipeline.run(work.engine, work.project, work.source, emit)
                else:
                    result = await module_run.foreign(work, server, model, emit)
            return await module_run.of(result, hidden=work.hidden, python_image=self.python_image)

    @never_cached
    @check
    async def test(
        self,
        source: Source,
        stages: Stages = None,
        variant: Variant = "",
        gpus: Gpus = "",
        checkpoint: Checkpoint = None,
        secrets: Secrets = None,
        server: Server = None,
        model: Model = "",
    ) -> str:
        """Build the image of the commit, serve it, run the stages, print their table; fail unless all is well."""
        ran = await self.run(source, stages, variant, gpus, checkpoint, secrets, server, model)
        return await ran.assert_passed()

    def _call(self, asked: Asked) -> Call:
        return Call(asked=asked, tool=self._tool())

    def _tool(self) -> Tool:
        network = {
            "PIP_INDEX_URL": self.index,
            "PIP_EXTRA_INDEX_URL": self.extra_index,
            "VLLM_CI_DEBIAN_MIRROR": self.debian_mirror,
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), self.proxy),
        }
        return Tool(
            package=module_work.package(),
            python_image=self.python_image,
            certificates=self.certificates,
            network={name: value for name, value in network.items() if value is not None},
            volume=self.cache,
        )


async def _built(work: Work) -> pipeline.Built:
    with watched() as emit:
        return await pipeline.build(work.engine, work.project, work.source, emit)
