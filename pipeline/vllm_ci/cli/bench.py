"""``vllm-ci bench``."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import click

from vllm_ci.cli import options
from vllm_ci.cli.options import option
from vllm_ci.cli.output import json_option, print_json
from vllm_ci.domain.errors import ErroredError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from vllm_ci.performance.figures import Spread
    from vllm_ci.performance.load import Load
    from vllm_ci.performance.measuring import Measurement, Setting
    from vllm_ci.performance.server import Served

_EVERY_S = 1.0
_WORKLOADS = ("chat", "code", "long-context", "multi-turn", "shared-prefix", "structured")
_LIMIT = {"type": click.FloatRange(min=0, min_open=True), "metavar": "MS"}


@click.command()
@option("--url", help="URL of an OpenAI-compatible server.")
@option("--model", help="Model name on the server. Default: the first that it lists.")
@option("--api-key-env", metavar="NAME", help="Environment variable with the server's API key.")
@option("--workload", type=click.Choice(_WORKLOADS), default="chat", show_default=True, help="What is asked.")
@option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="PER_S",
    help="Open loop: send this many requests per second, however long answers take.",
)
@option(
    "--concurrency", type=click.IntRange(min=1), metavar="N", help="Closed loop: keep this many requests running. Default: 8."
)
@option(
    "--arrivals", type=click.Choice(("poisson", "constant", "gamma")), default="poisson", show_default=True, help="With --rate."
)
@option("--burstiness", type=click.FloatRange(min=0, min_open=True), default=1.0, help="Of gamma arrivals; less is burstier.")
@option("--duration", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, metavar="SECONDS")
@option(
    "--warm-up",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Not counted at the start.",
)
@option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same requests at the same times.")
@option("--ttft", **_LIMIT, help="Objective: time to first token. Goodput counts requests that meet all objectives.")
@option("--tpot", **_LIMIT, help="Objective: time per further token.")
@option("--e2e", **_LIMIT, help="Objective: time of the whole answer.")
@option("--aa", is_flag=True, help="In a project: compare the commit's image with itself, in pairs of fresh starts.")
@json_option
@click.pass_context
def bench(
    context: click.Context,
    /,
    *,
    url: str | None,
    model: str | None,
    api_key_env: str | None,
    workload: str,
    rate: float | None,
    concurrency: int | None,
    arrivals: str,
    burstiness: float,
    duration: float,
    warm_up: float,
    seed: int,
    ttft: float | None,
    tpot: float | None,
    e2e: float | None,
    aa: bool,
    as_json: bool,
) -> int:
    """Measure a server under load.

    \b
    Examples:
      vllm-ci bench --url http://127.0.0.1:8000
      vllm-ci bench --url http://127.0.0.1:8000 --workload code --rate 4 --duration 120
      vllm-ci bench --url https://llm.example.com --api-key-env LLM_KEY --concurrency 32 --ttft 500 --tpot 50

    Latencies count from the time at which a request was due. Percentiles are shown from 11 (p50), 64 (p90), 130 (p95) and
    662 (p99) requests on. Ctrl-C ends the load early and keeps what was measured.

    Exit code: 0 measured, 1 requests failed, 2 usage, 3 errored (no server, nothing measured), 4 inconclusive (the client was
    too slow, or others used the server).
    """
    if aa and not url:
        from vllm_ci.cli.bench_aa import compare_with_itself

        return compare_with_itself(options.loaded(context), as_json=as_json)
    if not url or aa:
        raise UsageError("no server to measure", remedy="give --url URL, or --aa in a project without --url")

    from vllm_ci.cli import progress
    from vllm_ci.performance.arrivals import Pattern
    from vllm_ci.performance.figures import Objective
    from vllm_ci.performance.measuring import Setting
    from vllm_ci.performance.workload import WORKLOADS

    if rate and concurrency:
        raise UsageError("--rate and --concurrency cannot be used together", remedy="use one of them")
    if warm_up >= duration:
        raise UsageError(f"the warm-up of {warm_up:g} s leaves nothing of {duration:g} s", remedy="raise --duration")
    setting = Setting(
        workload=WORKLOADS[workload],
        rate=rate or 0.0,
        concurrency=concurrency or 8,
        duration_s=duration,
        warm_up_s=warm_up,
        pattern=Pattern(arrivals),
        burstiness=burstiness,
        seed=seed,
        objective=Objective(ttft_ms=ttft, tpot_ms=tpot, e2e_ms=e2e),
    )
    screen = progress.console()
    server = _served(url, model or "", api_key_env or "")
    _introduce(screen, server, setting)
    found = _measured(screen, server, setting)
    if as_json:
        print_json({"url": server.url, "model": server.facts.model, "version": server.facts.version, **found.document()})
    else:
        _show(found)
    return found.verdict.exit_code


def _served(url: str, model: str, key: str) -> Served:
    from vllm_ci.performance.server import served
    from vllm_ci.suites.reach import UnreachableError

    if key and not os.environ.get(key):
        raise UsageError(f"the environment variable {key} is empty or not set", remedy=f"export {key}=... before the call")
    try:
        return served(url, model=model, key=os.environ[key] if key else "")
    except UnreachableError as error:
        raise ErroredError(error.message, why=error.why, remedy=error.remedy) from error


def _introduce(screen: Console, server: Served, setting: Setting) -> None:
    loop = f"{setting.rate:g} requests/s" if setting.rate else f"{setting.concurrency} at a time"
    version = f", vLLM {server.facts.version}" if server.facts.is_vllm else ""
    screen.print(f"{server.facts.model} at {server.url}{version}")
    screen.print(f"{setting.workload.id}, {loop}, {setting.duration_s:g} s; {setting.workload.source}")
    _, scale = setting.workload.fitting(server.facts.max_model_len)
    if scale < 1:
        screen.print(f"lengths are scaled by {scale:.2f} to its context of {server.facts.max_model_len} tokens", style="yellow")
    if not server.exact:
        screen.print("prompt lengths are about right: the server has no tokenizer route", style="yellow")


def _measured(screen: Console, server: Served, setting: Setting) -> Measurement:
    from vllm_ci.performance.measuring import measure

    begun = last = time.monotonic()

    def watch(load: Load) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _EVERY_S or not screen.is_terminal:
            return
        last = now
        ended, failed = len(load.samples), sum(load.samples.problems.values())
        screen.print(
            f"{now - begun:4.0f} s: {load.sent} sent, {ended} ended, {failed} failed   ",
            end="\r",
            markup=False,
            highlight=False,
        )

    found = measure(server, setting, watch=watch)
    if screen.is_terminal:
        screen.print(" " * 60, end="\r")
    return found


def _show(found: Measurement) -> None:
    """Print the figures as a table."""
    figures = found.figures
    rows: list[tuple[str, str]] = [
        ("requests", f"{figures.requests} in {figures.duration_s:.1f} s, {figures.requests_per_s:.2f}/s"),
        ("output tokens", f"{figures.output_tokens_per_s:.1f}/s"),
    ]
    if figures.total_tokens_per_s is not None:
        rows.append(("all tokens", f"{figures.total_tokens_per_s:.1f}/s"))
    if figures.goodput_per_s is not None:
        share = figures.goodput_per_s / figures.requests_per_s if figures.requests_per_s else 0.0
        rows.append(("goodput", f"{figures.goodput_per_s:.2f}/s ({share:.0%} of the requests meet the objective)"))
    for name, spread in (("ttft", figures.ttft_ms), ("tpot", figures.tpot_ms), ("e2e", figures.e2e_ms)):
        rows.append((name, _spread(spread)))
    if gaps := figures.inter_chunk_latency_ms:
        rows.append(("inter-chunk", "  ".join(f"{key} {value:.1f}" for key, value in gaps.items()) + " ms"))
    rows.append(("send lag", _spread(figures.lag_ms)))
    if figures.short_answers:
        rows.append(("short answers", f"{figures.short_answers} ended before the requested length"))
    rows += [(f"server: {name.replace('_', ' ')}", f"{grown:.0f}") for name, grown in found.counters.items()]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")
    click.echo("\n".join([f"{found.verdict}", *(f"  {reason}" for reason in found.reasons)]))


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    known = "  ".join(f"p{percent:g} {value:.1f}" for percent, value in spread.percentiles.items())
    missing = ", ".join(f"p{percent:g} from {least}" for percent, least in spread.missing.items())
    return f"mean {spread.mean:.1f}  {known} ms" + (f"  ({missing} requests on)" if missing else "")
