"""``vllm-ci cache``."""

from __future__ import annotations

import re

import click

from vllm_ci.cli.options import Number, option
from vllm_ci.cli.output import json_option, print_json
from vllm_ci.domain.errors import UsageError

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
    from vllm_ci.images import prune
    from vllm_ci.images.store import Store, free_bytes

    store = Store()
    kinds = prune.show(store)
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
@option("--wait", type=Number(0), default=60.0, show_default=True, help="Longest wait for builds, in seconds.")
@json_option
def prune_command(*, older_than: float, max_size: str, dry_run: bool, wait: float, as_json: bool) -> None:
    """Delete old images, and what no image needs.

    Waits for builds. What runs and servers use is kept and listed.

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

    found = prune(
        Store(), older_than_days=older_than, max_bytes=_bytes(max_size), dry_run=dry_run, wait_s=wait, waiting=waiting
    )
    if as_json:
        print_json(
            {
                "images": list(found.images),
                "paths": [str(path) for path in found.paths],
                "freed_bytes": found.freed_bytes,
                "deleted": not dry_run,
                "in_use": dict(found.in_use),
            }
        )
        return
    for name in found.images:
        click.echo(f"{'would remove' if dry_run else 'removed'} {name}")
    for name, users in found.in_use.items():
        click.echo(f"kept {name}: in use by {', '.join(users)}")
    click.echo(f"{len(found.paths)} files and trees, {found.freed_bytes / 1e6:,.1f} MB {'would be' if dry_run else 'are'} free")


def _bytes(text: str) -> int:
    if not text:
        return 0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if not match:
        raise UsageError(f"invalid size: {text}", remedy="write 500M or 40G")
    return int(float(match[1]) * _UNITS[match[2].upper()])
