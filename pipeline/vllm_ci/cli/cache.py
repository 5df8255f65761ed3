"""``vllm-ci cache``."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from vllm_ci.cli import options
from vllm_ci.cli.options import Number, config_option, option
from vllm_ci.cli.output import json_option, print_json
from vllm_ci.domain.errors import UsageError

if TYPE_CHECKING:
    from vllm_ci.config.stored import Stored
    from vllm_ci.images.prune import CacheKind

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@click.group()
def cache() -> None:
    """Show and prune the cache of downloads and built images."""


@cache.command()
@json_option
def show(*, as_json: bool) -> None:
    """Show what is in the cache.

    \b
    Examples:
      vllm-ci cache show
      VLLM_CI_HOME=/data/vllm-ci vllm-ci cache show --json
    """
    from vllm_ci.config import stored
    from vllm_ci.images import prune
    from vllm_ci.images.store import Store, free_bytes

    store = Store()
    kinds = [*prune.show(store), *_kinds(stored.everything())]
    if as_json:
        held = [{"name": kind.name, "count": kind.count, "size_bytes": kind.size_bytes} for kind in kinds]
        print_json({"home": str(store.root), "free_bytes": free_bytes(store.root), "kinds": held})
        return
    for kind in kinds:
        click.echo(f"{kind.name:<10} {kind.count:>6} {kind.size_bytes / 1e6:>12,.1f} MB")
    click.echo(f"{store.root}: {free_bytes(store.root) / 1e9:,.1f} GB are free")


@cache.command("prune")
@option("--older-than", type=Number(0), default=14.0, show_default=True, help="Days since something was last used.")
@option("--max-size", metavar="SIZE", default="", help="Maximum size of all images together (40G).")
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@click.option(
    "--yes", is_flag=True, help="Also delete models and results that aliases, deployments or runs name, without asking."
)
@option("--wait", type=Number(0), default=60.0, show_default=True, help="Longest wait for builds, in seconds.")
@json_option
@config_option
@click.pass_context
def prune_command(
    context: click.Context,
    /,
    *,
    older_than: float,
    max_size: str,
    dry_run: bool,
    yes: bool,
    wait: float,
    as_json: bool,
    **_: Any,
) -> None:
    """Delete old images, what no image needs, and old models and results of retrainings.

    Waits for builds. What runs and servers use is kept and listed. Before a model or a result is deleted that an alias (of this
    project), a deployment or a run names, you are asked; without a terminal it stays.

    \b
    Examples:
      vllm-ci cache prune --dry-run
      vllm-ci cache prune --older-than 3 --max-size 40G
    """
    from vllm_ci.images.prune import prune
    from vllm_ci.images.store import Store

    def waiting(holders: list[str]) -> None:
        users = ", ".join(holders) or "another process"
        click.echo(f"vllm-ci: waiting up to {wait:g} s for {users}, which uses the cache", err=True)

    from vllm_ci.config import stored

    old = stored.old(stored.everything(), older_than_days=older_than)
    if old:  # who names them is asked only then: that needs the project's ledger and registry
        old = stored.old(stored.everything(options.project_if_any(context)), older_than_days=older_than)
    found = prune(
        Store(), older_than_days=older_than, max_bytes=_bytes(max_size), dry_run=dry_run, wait_s=wait, waiting=waiting
    )
    chosen, kept = _chosen(old, yes=yes, ask=not as_json and not dry_run)
    gone = stored.delete(chosen, kept, dry_run=dry_run)
    if as_json:
        print_json(
            {
                **{kind: [str(each.path) for each in gone.deleted if each.kind == kind] for kind in stored.KINDS},
                "kept": {str(each.path): [*each.used_by, *each.named_by] for each in gone.kept},
                "images": list(found.images),
                "paths": [str(path) for path in found.paths],
                "freed_bytes": found.freed_bytes + gone.freed_bytes,
                "deleted": not dry_run,
                "in_use": dict(found.in_use),
            }
        )
        return
    for name in found.images:
        click.echo(f"{'would remove' if dry_run else 'removed'} {name}")
    for name, users in found.in_use.items():
        click.echo(f"kept {name}: in use by {', '.join(users)}")
    for each in gone.deleted:
        click.echo(f"{'would delete' if dry_run else 'deleted'} {each.path}")
    for each in gone.kept:
        why = (
            f"in use by {', '.join(each.used_by)}"
            if each.used_by
            else f"named by {', '.join(each.named_by) or 'nobody, but busy'}"
        )
        click.echo(f"kept {each.path}: {why}")
    count, freed = len(found.paths) + len(gone.deleted), found.freed_bytes + gone.freed_bytes
    click.echo(f"{count} files and trees, {freed / 1e6:,.1f} MB {'would be' if dry_run else 'are'} free")


def _chosen(old: Sequence[Stored], *, yes: bool, ask: bool) -> tuple[list[Stored], list[Stored]]:
    """What is deleted, and what is kept."""
    free = [each for each in old if not each.named_by and not each.used_by]
    named = [each for each in old if each.named_by and not each.used_by]
    used = [each for each in old if each.used_by]
    if named and not yes and ask and _asks():
        for each in named:
            click.echo(f"{each.path} is named by {', '.join(each.named_by)}", err=True)
        yes = click.confirm(f"Delete these {len(named)} as well?", default=False, err=True)
    return ([*free, *named], used) if yes else (free, [*named, *used])


def _asks() -> bool:
    """Whether somebody can answer."""
    return sys.stdin.isatty()


def _kinds(found: Sequence[Stored]) -> list[CacheKind]:
    from vllm_ci.config import stored
    from vllm_ci.images.prune import CacheKind

    kinds = {kind: [each.size_bytes for each in found if each.kind == kind] for kind in stored.KINDS}
    return [CacheKind(name=kind, count=len(sizes), size_bytes=sum(sizes)) for kind, sizes in kinds.items()]


def _bytes(text: str) -> int:
    if not text:
        return 0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if not match:
        raise UsageError(f"invalid size: {text}", remedy="write 500M or 40G")
    return int(float(match[1]) * _UNITS[match[2].upper()])
