"""Releases as an object: credentials are passed once, and its functions are the release commands."""

from typing import Annotated

import dagger
from dagger import Doc, Name, object_type

from vllm_ci.module.caching import never_cached
from vllm_ci.module.credentials import Credentials, Options, Reason

Channel = Annotated[str, Doc("Channel of the configuration")]


@object_type
class Release(Credentials):
    """Releases of a project: change its channels, and show their state."""

    osv: Annotated[dagger.Directory | None, Doc("OSV data for a vulnerability scan during this call")] = None
    dry_run: Annotated[bool, Doc("Only show what would change")] = False

    @never_cached
    async def publish(
        self,
        channel: Annotated[str, Doc("Channel of the configuration; by default the first")] = "",
        run: Annotated[bool, Doc("Run the stages first, and publish with that report")] = False,
        report: Annotated[
            dagger.Directory | None, Doc("Report of a run; without it, the commit must be in the registry")
        ] = None,
        commit: Annotated[str, Doc("Commit to publish; needs a report, unless it was published before")] = "HEAD",
        scan: Annotated[dagger.File | None, Doc("JSON report of Trivy or Grype for the image")] = None,
        reason: Reason = "",
    ) -> str:
        """Publish the tested image of a commit to a channel: check evidence, push, sign, tag, record."""
        from vllm_ci.module import verbs

        return await verbs.publish(self, channel, commit, reason, run=run, report=report, scan=scan)

    @never_cached
    async def promote(
        self,
        from_: Annotated[str, Name("from"), Doc("Channel to promote from")],
        channel: Annotated[str, Doc("Channel to promote to")],
        reason: Reason = "",
    ) -> str:
        """Promote the release of one channel to another: same digest, no rebuild, the stricter policy applies."""
        from vllm_ci.module.verb import Verb
        from vllm_ci.module.verbs import done

        options: Options = {"from": from_, "channel": channel, "reason": reason, "dry_run": self.dry_run}
        return await done(self, Verb(name="promote", options=options, osv=self.osv, channels=(from_, channel), signs=True))

    @never_cached
    async def rollback(
        self,
        channel: Channel,
        to: Annotated[str, Doc("Commit or digest to roll back to; by default the newest earlier one that verifies")] = "",
        reason: Reason = "",
    ) -> str:
        """Roll a channel back to an earlier release whose evidence verifies."""
        from vllm_ci.module.verb import Verb
        from vllm_ci.module.verbs import done

        options: Options = {"to": to, "reason": reason, "dry_run": self.dry_run}
        verb = Verb(name="rollback", about=(channel,), options=options, osv=self.osv, channels=(channel,), signs=True)
        return await done(self, verb)

    @never_cached
    async def history(self, channel: Annotated[str, Doc("Channel; by default all")] = "") -> str:
        """Show the releases, newest first, and the current release of each channel; reads only the ledger."""
        from vllm_ci.module.verb import Verb
        from vllm_ci.module.verbs import done

        return await done(
            self, Verb(name="history", about=(channel,) if channel else (), channels=(channel,) if channel else ())
        )

    @never_cached
    async def verify(
        self,
        image: Annotated[str, Doc("Image (NAME[:TAG][@DIGEST]) or channel of the configuration")],
        keys: Annotated[list[dagger.File] | None, Doc("Public keys (PEM) to trust, instead of the configured signers")] = None,
        commit: Annotated[str, Doc("Commit that the statements must be about")] = "",
        channel: Annotated[str, Doc("Also check the policy of this channel")] = "",
        layers: Annotated[bool, Doc("Also read and check every layer, not only manifest and config")] = False,
    ) -> str:
        """Verify the evidence attached to an image with public keys; with --keys, no checkout is needed."""
        from vllm_ci.module.verb import Verb
        from vllm_ci.module.verbs import done, done_anywhere

        options: Options = {"commit": commit, "channel": channel, "layers": layers}
        channels = (channel,) if channel else ()
        verb = Verb(name="verify", about=(image,), options=options, keys=tuple(keys or ()), channels=channels)
        return await (done_anywhere(self, verb) if keys and not channel else done(self, verb))

    @never_cached
    async def prune(
        self,
        keep: Annotated[int, Doc("Number of earlier releases to keep for rollback, per channel")] = 5,
        yes: Annotated[bool, Doc("Delete; without it, only show what would be deleted")] = False,
    ) -> str:
        """Delete images and evidence that no channel can roll back to any more."""
        from vllm_ci.module.verb import Verb
        from vllm_ci.module.verbs import done

        return await done(self, Verb(name="prune", options={"keep": str(keep), "yes": yes and not self.dry_run}))

    @never_cached
    async def policy(
        self,
        channel: Channel,
        commit: Annotated[str, Doc("Released commit, tag or digest to check; by default only show the policy")] = "",
    ) -> str:
        """Show the rules of a channel and, with --commit, the result of each for a released commit."""
        from vllm_ci.module.verb import Verb
        from vllm_ci.module.verbs import done

        about = ("explain", channel, *([commit] if commit else ()))
        return await done(self, Verb(name="policy", about=about, channels=(channel,)))
