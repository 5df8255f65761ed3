"""Models as an object: credentials are passed once, and its functions are the model commands."""

from typing import Annotated

import dagger
from dagger import Doc, object_type

from vllm_ci.module.caching import never_cached
from vllm_ci.module.credentials import Credentials, Options, Reason

Name = Annotated[str, Doc("Name of the model")]
Ref = Annotated[str, Doc("Model: NAME (its newest version), NAME@v3, NAME@ALIAS or NAME@sha256:...")]
DryRun = Annotated[bool, Doc("Only show what would change")]


@object_type
class Models(Credentials):
    """Models beside the images of a project: versions that never change, signed, with aliases that move like channels."""

    @never_cached
    async def add(
        self,
        name: Name,
        path: Annotated[dagger.Directory | None, Doc("Folder of a checkpoint or adapter with safetensors files")] = None,
        gguf: Annotated[dagger.File | None, Doc("GGUF file, instead of a folder")] = None,
        hub: Annotated[str, Doc("Model of the hub (ORG/NAME@REVISION), instead of a folder")] = "",
        code: Annotated[bool, Doc("Take Python files as well; vLLM runs them with --trust-remote-code only")] = False,
        base: Annotated[str, Doc("Model it was made from: NAME@VERSION of this project, or any name")] = "",
        license: Annotated[str, Doc("Its licence as SPDX expression, e.g. Apache-2.0")] = "",  # noqa: A002 - as the option
        reason: Reason = "",
    ) -> str:
        """Check the files of a model, push those that are not there yet, sign them, and record the next version."""
        from vllm_ci.module import model_verbs

        options: Options = {"base": base, "license": license, "reason": reason, "code": code}
        return await model_verbs.add(self, name, path, gguf, hub, options)

    @never_cached
    async def show(self, model: Ref) -> str:
        """Show the facts, files and evidence of a version."""
        from vllm_ci.module import model_verbs

        return await model_verbs.about(self, "model show", model)

    @never_cached
    async def diff(
        self,
        model: Ref,
        other: Annotated[str, Doc("Model that it is compared with")],
    ) -> str:
        """Show which files and facts differ between two versions, and how many bytes the second one adds."""
        from vllm_ci.module import model_verbs

        return await model_verbs.about(self, "model diff", model, other)

    @never_cached
    async def verify(self, model: Ref) -> str:
        """Read every file of a version in the repository, and check it and its signature; fail if anything is wrong."""
        from vllm_ci.module import model_verbs

        return await model_verbs.about(self, "model verify", model)

    @never_cached
    async def pull(self, model: Ref) -> dagger.Directory:
        """Return the files of a version, verified: to export, or to serve with --checkpoint."""
        from vllm_ci.module import model_verbs

        return (await model_verbs.pulled(self, model)).directory("files")

    @never_cached
    async def signature(self, model: Ref) -> dagger.File:
        """Return the signature of a version, for the model_signing tool, after verifying it."""
        from vllm_ci.module import model_verbs

        return (await model_verbs.pulled(self, model)).file("model.sig")

    @never_cached
    async def alias(
        self,
        name: Name,
        assignment: Annotated[str, Doc("ALIAS=VERSION; the version is v3, another alias or a digest")],
        reason: Reason = "",
        dry_run: DryRun = False,
    ) -> str:
        """Point an alias to a version, if the alias's policy allows it; every file of the version is read and checked."""
        from vllm_ci.module import model_verbs

        return await model_verbs.alias(self, name, assignment, reason, dry_run=dry_run)

    @never_cached
    async def rollback(
        self,
        name: Name,
        alias: Annotated[str, Doc("Alias to move")],
        to: Annotated[str, Doc("Version to go back to; by default the newest earlier one that verifies")] = "",
        reason: Reason = "",
        dry_run: DryRun = False,
    ) -> str:
        """Point an alias back to the newest earlier version whose evidence still verifies."""
        from vllm_ci.module import model_verbs

        return await model_verbs.rollback(self, name, alias, to, reason, dry_run=dry_run)

    @never_cached
    async def history(
        self,
        name: Annotated[str, Doc("Name of the model; by default all")] = "",
        alias: Annotated[str, Doc("Alias; by default all records of the model")] = "",
    ) -> str:
        """Show the records of models, newest first: versions that were added, aliases that moved; reads only the ledger."""
        from vllm_ci.module import model_verbs

        return await model_verbs.listed(self, "model history", name, alias)

    # The last one: its name hides the built-in type in what follows.
    @never_cached
    async def list(self, name: Annotated[str, Doc("Name of the model; by default all")] = "") -> str:
        """List models and their versions, newest first; reads only the ledger."""
        from vllm_ci.module import model_verbs

        return await model_verbs.listed(self, "model list", name)
