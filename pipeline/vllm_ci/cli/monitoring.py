"""``vllm-ci monitoring`` and ``vllm-ci watch``."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vllm_ci.cli import options, watching
from vllm_ci.cli.options import Number, config_option, option
from vllm_ci.cli.output import json_option, print_json, show
from vllm_ci.domain.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from vllm_ci.cli.deploying import Channel
    from vllm_ci.config.load import Loaded
    from vllm_ci.deploy.target import Target
    from vllm_ci.monitoring.around import Compared
    from vllm_ci.monitoring.watch import Watched


@click.group()
def monitoring() -> None:
    """Print alerting rules, a dashboard and targets to scrape for channels that serve."""


@monitoring.command()
@click.argument("channels", nargs=-1)
@click.option("--operator", is_flag=True, help="Print a PrometheusRule, for clusters with the Prometheus operator.")
@config_option
@click.pass_context
def rules(context: click.Context, /, *, channels: tuple[str, ...], operator: bool, **_: Any) -> None:
    """Print Prometheus rules for CHANNELS (by default all): recorded signals, error budgets, alerts.

    \b
    Examples:
      vllm-ci monitoring rules > /etc/prometheus/rules/vllm-ci.yml
      vllm-ci monitoring rules production --operator | kubectl apply -f -
    """
    from vllm_ci.config import deployments
    from vllm_ci.monitoring import rules as made
    from vllm_ci.system import yaml_text

    loaded = options.loaded(context)
    watched = [loaded.config.monitoring.watched(name) for name in _channels(loaded, channels)]
    name = deployments.label(f"{loaded.name}-vllm-ci".replace("_", "-"))
    content = made.operator(watched, name=name) if operator else made.document(watched)
    click.echo(yaml_text.dump(content), nl=False)


@monitoring.command()
@click.argument("channel", default="")
@config_option
@click.pass_context
def dashboard(context: click.Context, /, *, channel: str, **_: Any) -> None:
    """Print a Grafana dashboard of the recorded signals; it shows each channel whose rules are loaded.

    CHANNEL is the one whose objectives are shown, by default the last one of the configuration.

    \b
    Example:
      vllm-ci monitoring dashboard > vllm-ci.json
    """
    from vllm_ci.monitoring import dashboard as made

    loaded = options.loaded(context)
    [*_others, name] = _channels(loaded, (channel,) if channel else ())
    print_json(made.document(loaded.config.monitoring.watched(name).targets.objectives(), title=f"{loaded.name} channels"))


@monitoring.command()
@click.argument("channel")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Replace this file, in one step.")
@config_option
@click.pass_context
def targets(context: click.Context, /, *, channel: str, output: Path | None, **_: Any) -> None:
    """Print the servers of a deployed CHANNEL for Prometheus' file_sd_configs; call it after each deployment, or by a timer.

    \b
    Example:
      vllm-ci monitoring targets production --output /etc/prometheus/targets/production.json
    """
    from vllm_ci.cli.deploy_verbs import with_target
    from vllm_ci.config import over_grpc
    from vllm_ci.monitoring import scraping

    over_grpc.require_metrics(options.loaded(context), channel)

    async def look(where: Channel, target: Target) -> list[dict[str, Any]]:
        settings = where.place.settings
        port = settings.gateway.metrics_port if settings.target == "local" else 0
        labels = where.found.loaded.config.monitoring.watched(channel).labels
        gateway = f"127.0.0.1:{port}" if port else ""
        return scraping.targets((await target.current()).replicas, labels, gateway=gateway)

    found = with_target(context, channel, look)
    if output is None:
        print_json(found)
        return
    part = output.with_name(f".{output.name}.{os.getpid()}")
    part.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    part.replace(output)
    click.echo(f"wrote {sum(len(each['targets']) for each in found)} targets to {output}", err=True)


def _channels(loaded: Loaded, named: tuple[str, ...]) -> tuple[str, ...]:
    from vllm_ci.config import over_grpc

    known = tuple(loaded.config.release.channels)
    for name in named:
        if name not in known:
            raise ConfigError(f"there is no channel {name}", remedy=f"name one of {', '.join(known)}")
        over_grpc.require_metrics(loaded, name)
    if named:
        return named
    served = tuple(name for name in known if loaded.config.deploy.of(name).protocol != "grpc")
    if others := sorted({*known} - {*served}):
        click.echo(f"note: without {', '.join(others)}: servers of gRPC have no metrics for Prometheus", err=True)
    if not served:
        over_grpc.require_metrics(loaded, known[0])
    return served


@click.command()
@click.argument("channel")
@option("--prometheus", metavar="URL", help="Prometheus server; by default monitoring.prometheus.")
@option("--hours", type=Number(0.25, 168), help="Hours to compare; by default monitoring.watch.hours.")
@click.option(
    "--at", metavar="TIME", help="When it began to serve, if later than its record in the ledger (2026-01-31T12:00:00Z)."
)
@click.option("--wait", is_flag=True, help="Look every minute until those hours have passed or something became worse.")
@option("--webhook", metavar="URL", help="Send what became worse there, in Alertmanager's format.")
@click.option(
    "--rollback", is_flag=True, help="Roll back when something became worse; needs monitoring.channels.CHANNEL.rollback."
)
@json_option
@config_option
@click.pass_context
def watch(
    context: click.Context,
    /,
    *,
    channel: str,
    at: str | None,
    wait: bool,
    webhook: str | None,
    rollback: bool,
    as_json: bool,
    **_: Any,
) -> None:
    """Compare the hours after CHANNEL's last release with those before: errors, latencies, queue, refusals, memory ...

    Exit code 0: nothing became worse; 1: something did; 4: there is too little data to tell. No data is never taken for good.

    \b
    Examples:
      vllm-ci watch production
      vllm-ci watch production --wait --webhook https://alerts.example.com/hook --rollback
    """
    from vllm_ci.cli import deploy_traffic
    from vllm_ci.config import releases
    from vllm_ci.monitoring.prometheus import Prometheus
    from vllm_ci.monitoring.watch import Settings
    from vllm_ci.monitoring.watch import watch as run
    from vllm_ci.monitoring.webhook import check

    loaded = options.loaded(context)
    section = loaded.config.monitoring
    _channels(loaded, (channel,))
    if rollback and not section.channel(channel).rollback:
        raise UsageError(
            f"{channel} may not be rolled back by watch",
            remedy=f"set monitoring.channels.{channel}.rollback: true, or omit --rollback",
        )
    if webhook:
        check(webhook)
    watched = section.watched(channel)
    server = Prometheus(url=_prometheus(loaded), token=_token(section.token_env))
    found_releases = releases.of(loaded)
    with watching.watch() as emit:
        settings = Settings(
            labels=watched.labels,
            seconds=section.watch.hours * 3600,
            settle_s=section.watch.settle_minutes * 60,
            availability=watched.targets.objectives()[0],
            margins=section.watch.margins,
            source=section.prometheus,
            webhook=webhook or "",
            roll_back=rollback,
            lead=(
                (lambda release: deploy_traffic.moved(found_releases, channel, release, emit=emit))
                if rollback and deploy_traffic.deployed_here(found_releases, channel)
                else None
            ),
        )
        found = run(found_releases.setup, channel, server.series, settings, at=_moment(at), wait=wait, emit=emit)
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)
    for problem in found.problems:
        show(f"vllm-ci: {problem}", err=True)
    sys.exit(found.verdict.exit_code)


def _prometheus(loaded: Loaded) -> str:
    if not loaded.config.monitoring.prometheus:
        raise ConfigError("no Prometheus server is configured", remedy="set monitoring.prometheus, or use --prometheus URL")
    return loaded.config.monitoring.prometheus


def _token(name: str) -> str:
    if name and not os.environ.get(name):
        raise UsageError(f"monitoring.token_env names {name}, which is not set", remedy=f"export {name} with the bearer token")
    return os.environ[name] if name else ""


def _moment(at: str | None) -> datetime | None:
    if not at:
        return None
    try:
        moment = datetime.fromisoformat(at)
    except ValueError as error:
        raise UsageError(f"--at {at!r} is not a time", remedy="write it as 2026-01-31T12:00:00Z") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment > datetime.now(UTC):
        raise UsageError(f"--at {at} is in the future", remedy="name the time at which the release began to serve")
    return moment


def _show(found: Watched) -> None:
    compared = found.compared
    release = found.record.release
    click.echo(f"{found.record.channel} {release.commit[:12]} {release.digest[:19]}, released {found.record.at}")
    if not compared.findings:
        least = compared.stretches.settle_s / 60
        click.echo(f"too early: it is watched from {least:.0f} min after the release on; run it again later, or with --wait")
    for each in compared.findings:
        click.echo(f"  {each.state:<12}  {each.signal:<13}  {each.message}")
    if found.burn_rate is not None:
        objective = found.availability
        click.echo(
            f"errors use the budget of {objective.target:.4%} in {objective.days:g} days {found.burn_rate:.2g} times as fast"
        )
    if found.notified:
        click.echo("the webhook was told")
    if found.moved:
        click.echo(f"rolled back to {found.moved.release.commit[:12]} {found.moved.release.digest[:19]}")
    if found.compared.findings:
        click.echo(_conclusion(found.compared))


def _conclusion(compared: Compared) -> str:
    if compared.worse:
        return f"became worse: {', '.join(each.signal for each in compared.worse)}"
    unknown = [each.signal for each in compared.findings if each.state in ("missing", "undecided")]
    return f"cannot be told yet: {', '.join(unknown)}" if unknown else "nothing became worse"
