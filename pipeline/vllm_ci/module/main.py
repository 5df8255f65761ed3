"""From a commit to a tested vLLM image: build it, serve it, run the stages, push it.

The same verbs as the command line, with the same verdicts and digests: `dagger call test --source .` and `ci/run` agree.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import dagger
from dagger import Doc, Name, check, object_type

from vllm_ci.config.load import FILE_NAME, GENERATED_KEY
from vllm_ci.engines.dagger_tool import PYTHON, Tool
from vllm_ci.module import release, run, session
from vllm_ci.module.arguments import (
    ApiKey,
    AsJson,
    By,
    Checkpoint,
    Deep,
    DryRun,
    Gpus,
    Key,
    KnownHosts,
    LedgerPassword,
    LedgerService,
    LedgerUsername,
    Model,
    Osv,
    Passphrase,
    Password,
    Reason,
    RegistryService,
    ReleaseSecrets,
    Secrets,
    Server,
    Source,
    SshAgent,
    Stages,
    Username,
    Variant,
)
from vllm_ci.module.caching import cached_for_the_session, never_cached
from vllm_ci.module.release import Means, Options, Verb
from vllm_ci.module.run import Run
from vllm_ci.module.session import Asked, Call, Work, watched
from vllm_ci.pipeline import steps


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
        username: Username = None,
        password: Password = None,
        registry_service: RegistryService = None,
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
        api_key: ApiKey = None,
    ) -> dagger.Service:
        """Build the image of the commit and return its server, to try it by hand: `up --ports 8000:8000`."""
        asked = Asked(
            source=source,
            config=self.config,
            variant=variant,
            gpus=gpus,
            checkpoint=checkpoint,
            secrets=tuple(secrets or ()),
            api_key=api_key,
        )
        async with self._call(asked) as work:
            built = await _built(work)
            with watched() as emit:
                model = await steps.model(work.engine, work.project, work.source, built.image, emit)
                project = await steps.fitted(work.engine, work.project, built, model, emit)
            server = project.server
            if server.api_key_env == GENERATED_KEY and api_key is None:
                server = replace(server, api_key_env="")  # a key that nobody knows would keep everybody out
            spec = steps.service(work.engine, replace(project, server=server), built, model)
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
        api_key: ApiKey = None,
        server: Server = None,
        model: Model = "",
        deep: Deep = False,
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
            api_key=api_key,
            foreign=server is not None,
            deep=deep,
        )
        async with self._call(asked) as work:
            with watched(work.hidden) as emit:
                if server is None:
                    result = await steps.run(work.engine, work.project, work.source, emit)
                else:
                    result = await run.foreign(work, server, model, emit)
            return await run.of(result, hidden=work.hidden, python_image=self.python_image)

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
        api_key: ApiKey = None,
        server: Server = None,
        model: Model = "",
        deep: Deep = False,
    ) -> str:
        """Build the image of the commit, serve it, run the stages, print their table; fail unless all is well."""
        ran = await self.run(source, stages, variant, gpus, checkpoint, secrets, api_key, server, model, deep)
        return await ran.assert_passed()

    @never_cached
    async def publish(
        self,
        source: Source,
        report: Annotated[
            dagger.Directory | None, Doc("Report of a run; without one, the registry must have the commit")
        ] = None,
        commit: Annotated[str, Doc("Commit to publish; its report has to be given, or it was published before")] = "HEAD",
        channel: Annotated[str, Doc("Which channel; by default the first of the configuration")] = "",
        osv: Osv = None,
        scan: Annotated[dagger.File | None, Doc("JSON of Trivy or Grype for the image")] = None,
        reason: Reason = "",
        dry_run: DryRun = False,
        as_json: AsJson = False,
        ref: Annotated[str, Doc("Branch or tag that is released, where the checkout has none; its git has to confirm it")] = "",
        pull_request: Annotated[str, Doc("Number of the pull request that the CI run is for, empty when none")] = "",
        run_url: Annotated[str, Doc("Page of the CI run that releases, for the record")] = "",
        username: Username = None,
        password: Password = None,
        registry_service: RegistryService = None,
        ledger_username: LedgerUsername = None,
        ledger_password: LedgerPassword = None,
        ledger_service: LedgerService = None,
        ssh_agent: SshAgent = None,
        known_hosts: KnownHosts = None,
        key: Key = None,
        passphrase: Passphrase = None,
        secrets: ReleaseSecrets = None,
        by: By = "",
    ) -> str:
        """Publish the tested image of a commit to a channel: gate on evidence, push, sign, tag, record."""
        means = Means(
            username=username,
            password=password,
            registry_service=registry_service,
            ledger_username=ledger_username,
            ledger_password=ledger_password,
            ledger_service=ledger_service,
            ssh_agent=ssh_agent,
            known_hosts=known_hosts,
            key=key,
            passphrase=passphrase,
            secrets=tuple(secrets or ()),
            by=by,
            ref=ref,
            pull_request=pull_request,
            run_url=run_url,
        )
        verb = Verb(
            name="publish",
            about=commit,
            options={"channel": channel, "reason": reason, "dry_run": dry_run, "json": as_json},
            report=report,
            osv=osv,
            scan=scan,
            builds=report is not None and commit == "HEAD",
        )
        return await self._release(verb, source, means)

    @never_cached
    async def promote(
        self,
        source: Source,
        from_: Annotated[str, Name("from"), Doc("Channel to take the release from")],
        channel: Annotated[str, Doc("Channel to take it to")],
        osv: Osv = None,
        reason: Reason = "",
        dry_run: DryRun = False,
        as_json: AsJson = False,
        username: Username = None,
        password: Password = None,
        registry_service: RegistryService = None,
        ledger_username: LedgerUsername = None,
        ledger_password: LedgerPassword = None,
        ledger_service: LedgerService = None,
        ssh_agent: SshAgent = None,
        known_hosts: KnownHosts = None,
        key: Key = None,
        passphrase: Passphrase = None,
        secrets: ReleaseSecrets = None,
        by: By = "",
    ) -> str:
        """Move a channel to what another one stands at: the same digest, never a rebuild, by the stricter policy."""
        means = Means(
            username=username,
            password=password,
            registry_service=registry_service,
            ledger_username=ledger_username,
            ledger_password=ledger_password,
            ledger_service=ledger_service,
            ssh_agent=ssh_agent,
            known_hosts=known_hosts,
            key=key,
            passphrase=passphrase,
            secrets=tuple(secrets or ()),
            by=by,
        )
        options: Options = {"from": from_, "channel": channel, "reason": reason, "dry_run": dry_run, "json": as_json}
        return await self._release(Verb(name="promote", options=options, osv=osv), source, means)

    @never_cached
    async def rollback(
        self,
        source: Source,
        channel: Annotated[str, Doc("Channel to move back")],
        to: Annotated[str, Doc("Commit or digest to go back to; by default the newest earlier one that holds")] = "",
        osv: Osv = None,
        reason: Reason = "",
        dry_run: DryRun = False,
        as_json: AsJson = False,
        username: Username = None,
        password: Password = None,
        registry_service: RegistryService = None,
        ledger_username: LedgerUsername = None,
        ledger_password: LedgerPassword = None,
        ledger_service: LedgerService = None,
        ssh_agent: SshAgent = None,
        known_hosts: KnownHosts = None,
        key: Key = None,
        passphrase: Passphrase = None,
        secrets: ReleaseSecrets = None,
        by: By = "",
    ) -> str:
        """Move a channel back to the newest earlier release whose evidence still verifies."""
        means = Means(
            username=username,
            password=password,
            registry_service=registry_service,
            ledger_username=ledger_username,
            ledger_password=ledger_password,
            ledger_service=ledger_service,
            ssh_agent=ssh_agent,
            known_hosts=known_hosts,
            key=key,
            passphrase=passphrase,
            secrets=tuple(secrets or ()),
            by=by,
        )
        options: Options = {"to": to, "reason": reason, "dry_run": dry_run, "json": as_json}
        return await self._release(Verb(name="rollback", about=channel, options=options, osv=osv), source, means)

    @never_cached
    async def history(
        self,
        source: Source,
        channel: Annotated[str, Doc("Which channel; by default all")] = "",
        as_json: AsJson = False,
        ledger_username: LedgerUsername = None,
        ledger_password: LedgerPassword = None,
        ledger_service: LedgerService = None,
        ssh_agent: SshAgent = None,
        known_hosts: KnownHosts = None,
    ) -> str:
        """What was released, newest first, and where each channel stands; from the ledger alone."""
        means = Means(
            ledger_username=ledger_username,
            ledger_password=ledger_password,
            ledger_service=ledger_service,
            ssh_agent=ssh_agent,
            known_hosts=known_hosts,
        )
        return await self._release(Verb(name="history", about=channel, options={"json": as_json}), source, means)

    @never_cached
    async def verify(
        self,
        image: Annotated[str, Doc("Image (NAME[:TAG][@DIGEST]), or a channel of the source's configuration")],
        source: Annotated[dagger.Directory | None, Doc("Checkout whose configuration says whom to trust")] = None,
        keys: Annotated[list[dagger.File] | None, Doc("Public keys (PEM) to trust, in place of the configuration's")] = None,
        commit: Annotated[str, Doc("Commit that statements have to be about")] = "",
        channel: Annotated[str, Doc("Also ask this channel's policy")] = "",
        layers: Annotated[bool, Doc("Read and check every layer as well, not only manifest and config")] = False,
        as_json: AsJson = False,
        username: Username = None,
        password: Password = None,
        registry_service: RegistryService = None,
        ledger_username: LedgerUsername = None,
        ledger_password: LedgerPassword = None,
        ledger_service: LedgerService = None,
        ssh_agent: SshAgent = None,
        known_hosts: KnownHosts = None,
    ) -> str:
        """Verify what is attached to an image by public keys; fail if it does not hold."""
        means = Means(
            username=username,
            password=password,
            registry_service=registry_service,
            ledger_username=ledger_username,
            ledger_password=ledger_password,
            ledger_service=ledger_service,
            ssh_agent=ssh_agent,
            known_hosts=known_hosts,
        )
        options: Options = {"commit": commit, "channel": channel, "layers": layers, "json": as_json}
        verb = Verb(name="verify", about=image, options=options, keys=tuple(keys or ()))
        if source is None:
            return await release.done_anywhere(verb, self._tool(), means)
        return await self._release(verb, source, means)

    async def _release(self, verb: Verb, source: dagger.Directory, means: Means) -> str:
        return await release.done(verb, Asked(source=source, config=self.config), self._tool(), means)

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
            package=session.package(),
            python_image=self.python_image,
            certificates=self.certificates,
            network={name: value for name, value in network.items() if value is not None},
            volume=self.cache,
        )


async def _built(work: Work) -> steps.Built:
    with watched() as emit:
        return await steps.build(work.engine, work.project, work.source, emit)
