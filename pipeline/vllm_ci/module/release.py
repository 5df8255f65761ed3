"""Releases as an object: its credentials are given once, its functions are the verbs of the command line."""

from collections.abc import Mapping
from typing import Annotated

import dagger
from dagger import Doc, Name, object_type

from vllm_ci.module.arguments import Password, RegistryService, Settings, Username
from vllm_ci.module.caching import never_cached

Options = Mapping[str, str | bool]
Channel = Annotated[str, Doc("Which channel of the configuration")]
Reason = Annotated[str, Doc("Why, for the record")]


@object_type
class Release(Settings):
    """Releases of a project: what moves its channels, and what is known about them."""

    username: Username = None
    password: Password = None
    registry_service: RegistryService = None
    ledger_username: Annotated[
        dagger.Secret | None, Doc("User name for the ledger's repository; most servers take any with a token")
    ] = None
    ledger_password: Annotated[dagger.Secret | None, Doc("Password or token for the ledger's repository")] = None
    ledger_service: Annotated[
        dagger.Service | None, Doc("That repository's server as a service (tcp://host:port), if DNS does not know it")
    ] = None
    ssh_agent: Annotated[dagger.Socket | None, Doc("SSH agent for the ledger's repository, e.g. $SSH_AUTH_SOCK")] = None
    known_hosts: Annotated[dagger.File | None, Doc("Host keys to trust with that agent, e.g. ~/.ssh/known_hosts")] = None
    key: Annotated[dagger.Secret | None, Doc("Private key (PEM) to sign with; its public half is in release.signers")] = None
    passphrase: Annotated[dagger.Secret | None, Doc("Passphrase of the private key")] = None
    osv: Annotated[dagger.Directory | None, Doc("OSV data to scan with, now")] = None
    by: Annotated[str, Doc("Who releases, as git writes it: Anna <anna@example.com>")] = ""
    ref: Annotated[str, Doc("Branch or tag that is released, where the checkout has none; its git has to confirm it")] = ""
    pull_request: Annotated[str, Doc("Number of the pull request that the CI run is for, empty when none")] = ""
    run_url: Annotated[str, Doc("Page of the CI run that releases, for the record")] = ""
    dry_run: Annotated[bool, Doc("Say exactly what would change, and change nothing")] = False
    as_json: Annotated[bool, Doc("Return JSON")] = False

    @never_cached
    async def publish(
        self,
        channel: Annotated[str, Doc("Which channel of the configuration; by default its first")] = "",
        run: Annotated[bool, Doc("Run the stages now and publish by their report, all in this call")] = False,
        report: Annotated[
            dagger.Directory | None, Doc("Report of a run; without one, the registry must have the commit")
        ] = None,
        commit: Annotated[str, Doc("Commit to publish; its report has to be given, or it was published before")] = "HEAD",
        scan: Annotated[dagger.File | None, Doc("JSON of Trivy or Grype for the image")] = None,
        reason: Reason = "",
    ) -> str:
        """Publish the tested image of a commit to a channel: check the evidence, push, sign, tag, record."""
        from vllm_ci.module import verbs

        return await verbs.publish(self, channel, commit, reason, run=run, report=report, scan=scan)

    @never_cached
    async def promote(
        self,
        from_: Annotated[str, Name("from"), Doc("Channel to take the release from")],
        channel: Annotated[str, Doc("Channel to take it to")],
        reason: Reason = "",
    ) -> str:
        """Move a channel to the release of another one: the same digest, never a rebuild, by the stricter policy."""
        from vllm_ci.module.verb import Verb
        from vllm_ci.module.verbs import done

        options: Options = {"from": from_, "channel": channel, "reason": reason, "dry_run": self.dry_run}
        return await done(self, Verb(name="promote", options=options, osv=self.osv, channels=(from_, channel)))

    @never_cached
    async def rollback(
        self,
        channel: Channel,
        to: Annotated[str, Doc("Commit or digest to go back to; by default the newest earlier one that verifies")] = "",
        reason: Reason = "",
    ) -> str:
        """Move a channel back to the newest earlier release whose evidence still verifies."""
        from vllm_ci.module.verb import Verb
        from vllm_ci.module.verbs import done

        options: Options = {"to": to, "reason": reason, "dry_run": self.dry_run}
        return await done(self, Verb(name="rollback", about=(channel,), options=options, osv=self.osv, channels=(channel,)))

    @never_cached
    async def history(self, channel: Annotated[str, Doc("Which channel; by default all")] = "") -> str:
        """Show what was released, newest first, and where each channel points; from the ledger alone."""
        from vllm_ci.module.verb import Verb
        from vllm_ci.module.verbs import done

        return await done(
            self, Verb(name="history", about=(channel,) if channel else (), channels=(channel,) if channel else ())
        )

    @never_cached
    async def verify(
        self,
        image: Annotated[str, Doc("Image (NAME[:TAG][@DIGEST]), or a channel of the configuration")],
        keys: Annotated[list[dagger.File] | None, Doc("Public keys (PEM) to trust, in place of the configuration's")] = None,
        commit: Annotated[str, Doc("Commit that statements have to be about")] = "",
        channel: Annotated[str, Doc("Also ask this channel's policy")] = "",
        layers: Annotated[bool, Doc("Read and check every layer as well, not only manifest and config")] = False,
    ) -> str:
        """Verify what is attached to an image by public keys; with keys it needs no checkout."""
        from vllm_ci.module.verb import Verb
        from vllm_ci.module.verbs import done, done_anywhere

        options: Options = {"commit": commit, "channel": channel, "layers": layers}
        channels = (channel,) if channel else ()
        verb = Verb(name="verify", about=(image,), options=options, keys=tuple(keys or ()), channels=channels)
        return await (done_anywhere(self, verb) if keys and not channel else done(self, verb))

    @never_cached
    async def prune(
        self,
        keep: Annotated[int, Doc("Number of earlier releases that each channel keeps to go back to")] = 5,
        yes: Annotated[bool, Doc("Delete; otherwise only show what would be deleted")] = False,
    ) -> str:
        """Delete images (and their evidence) that no channel could go back to any more."""
        from vllm_ci.module.verb import Verb
        from vllm_ci.module.verbs import done

        return await done(self, Verb(name="prune", options={"keep": str(keep), "yes": yes and not self.dry_run}))

    @never_cached
    async def policy(
        self,
        channel: Channel,
        commit: Annotated[str, Doc("Released commit, tag or digest to check against it; by default only show the policy")] = "",
    ) -> str:
        """Show every rule of a channel, and what it gets for a released commit if one is named."""
        from vllm_ci.module.verb import Verb
        from vllm_ci.module.verbs import done

        about = ("explain", channel, *([commit] if commit else ()))
        return await done(self, Verb(name="policy", about=about, channels=(channel,)))
