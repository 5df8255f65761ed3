"""``vllm-ci policy``."""

from __future__ import annotations

from typing import Any

import click

from vllm_ci.cli.options import config_option
from vllm_ci.cli.output import json_option, print_json, say


@click.group()
def policy() -> None:
    """Show channel policies."""


@policy.command()
@click.argument("channel")
@click.argument("commit", default="")
@json_option
@config_option
@click.pass_context
def explain(context: click.Context, /, *, channel: str, commit: str, as_json: bool, **_: Any) -> None:
    """Show every rule of CHANNEL: what it expects, and what it gets for a released COMMIT (or tag, or digest) if one is named.

    Warns about a policy that can never pass, or that refuses very little.

    \b
    Examples:
      vllm-ci policy explain production
      vllm-ci policy explain production 0123abcd
    """
    from vllm_ci.cli.moves import opened
    from vllm_ci.release.explain import explain as run

    found = run(opened(context).setup, channel, commit)
    if as_json:
        print_json(found.to_json())
        return
    if found.decision is None:
        for rule, expected in found.expected:
            say(f"{rule:<20} {expected}")
    else:
        for each in found.decision.rules:
            say(f"{'ok' if each.ok else 'refused':<8} {each.rule:<20} expected {each.expected}; got {each.got}")
    for remark in found.remarks:
        say(f"note: {remark}")
    if found.decision and found.release:
        say(f"{found.release.commit[:12]} may {'' if found.decision.allowed else 'not '}go to {channel}")
