"""``vllm-ci policy``."""

from __future__ import annotations

from typing import Any

import click

from vllm_ci.cli.options import config_option
from vllm_ci.cli.output import json_option, print_json


@click.group()
def policy() -> None:
    """What the channels ask."""


@policy.command()
@click.argument("channel")
@click.argument("commit", default="")
@json_option
@config_option
@click.pass_context
def explain(context: click.Context, /, *, channel: str, commit: str, as_json: bool, **_: Any) -> None:
    """Show every rule of CHANNEL: what it expects, and what it gets for a released COMMIT (or tag, or digest) if one is named.

    A policy that can never pass, or that refuses little, is said so.

    \b
    Examples:
      vllm-ci policy explain production
      vllm-ci policy explain production 0123abcd
    """
    from vllm_ci.cli.releasing import opened
    from vllm_ci.release import gathering
    from vllm_ci.release import policy as policies
    from vllm_ci.release.remarks import remarks
    from vllm_ci.release.show import show

    setup = opened(context).setup
    asked = setup.channel(channel)
    now = gathering.now_or(None)
    odd = remarks(setup, channel, now=now)
    if not commit:
        rules = [{"rule": rule, "expected": expected} for rule, expected in policies.expectations(asked.policy)]
        if as_json:
            print_json({"channel": channel, "policy": asked.policy.digest, "rules": rules, "remarks": list(odd)})
            return
        for each in rules:
            click.echo(f"{each['rule']:<20} {each['expected']}")
        _tell(odd)
        return
    shown = show(setup, commit)[0]
    decision = gathering.ask(asked, setup.ledger.read(), shown.release, shown.findings, now=now)
    if as_json:
        told = [{"rule": each.rule, "expected": each.expected, "got": each.got, "ok": each.ok} for each in decision.rules]
        found = {"channel": channel, "policy": decision.policy, "allowed": decision.allowed, "rules": told}
        print_json({**found, "remarks": list(odd)})
        return
    for rule in decision.rules:
        click.echo(f"{'ok' if rule.ok else 'refused':<8} {rule.rule:<20} expected {rule.expected}; got {rule.got}")
    _tell(odd)
    click.echo(f"{shown.release.commit[:12]} may {'' if decision.allowed else 'not '}go to {channel}")


def _tell(remarks: tuple[str, ...]) -> None:
    for each in remarks:
        click.echo(f"note: {each}")
