"""What the model commands print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from vllm_ci.cli.output import print_json
from vllm_ci.domain.errors import FailedError
from vllm_ci.domain.plain import visible

if TYPE_CHECKING:
    from vllm_ci.models.aliases import AliasMove
    from vllm_ci.models.reading import Difference, Known


def say(line: str) -> None:
    """Print one line; names of files, facts and reasons are what others wrote."""
    click.echo(visible(line.replace("\n", " ")))


def show_known(known: Known, *, as_json: bool) -> None:
    """Print what is known of a version."""
    if as_json:
        print_json(known.to_json())
        return
    record = known.record
    say(f"model       {record.model}@v{record.version}")
    say(f"digest      {record.digest}")
    say(f"repository  {record.repository}:{record.tag}")
    say(f"aliases     {', '.join(known.aliases) or 'none'}")
    say(f"added       {record.at}  {record.by}{f'  ({record.reason})' if record.reason else ''}")
    for name, value in known.model.facts.items():
        say(f"{name:<11} {', '.join(map(str, value)) if isinstance(value, list) else value}")
    for layer in known.model.layers:
        say(f"file        {layer.path}  {layer.size / 1e6:,.1f} MB  {layer.digest[:19]}")
    for each in known.findings.evidence:
        say(f"evidence    {each.kind:<16} signed by {each.signer}")
    for refusal in known.findings.refused.values():
        say(f"refused     {refusal.message}")


def show_difference(found: Difference, *, as_json: bool) -> None:
    """Print what differs between two versions."""
    if as_json:
        print_json(found.to_json())
        return
    for name, (before, after) in found.facts.items():
        say(f"fact     {name}: {before} -> {after}")
    for mark, layers in (("added  ", found.added), ("removed", found.removed), ("changed", found.changed)):
        for layer in layers:
            say(f"{mark}  {layer.path}  {layer.size / 1e6:,.1f} MB")
    say(f"{found.new_bytes / 1e6:,.1f} MB are new, {found.same_bytes / 1e6:,.1f} MB are shared")


def show_move(moved: AliasMove, *, as_json: bool) -> None:
    """Print a move of an alias; if it was refused, end the command with exit code 1."""
    if as_json:
        print_json(moved.to_json())
        if not moved.decision.allowed:
            sys.exit(FailedError.exit_code)
        return
    for rule in moved.decision.rules:
        say(f"  {'ok     ' if rule.ok else 'refused'}  {rule.rule:<12} {rule.got}")
    moved.require()
    for each in moved.skipped:
        say(f"skipped {each}")
    where = f"{moved.record.model}@{moved.alias}"
    if not moved.changed:
        say(f"{where} already points to v{moved.record.version}: nothing to change")
        return
    before = f" (before: v{moved.previous})" if moved.previous else ""
    points = "would point to" if moved.dry_run else "now points to"
    say(f"{where} {points} v{moved.record.version} {moved.record.digest[:19]}{before}")
