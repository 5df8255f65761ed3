"""``vllm-ci bench``."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from vllm_ci.cli import bench_checks, signals
from vllm_ci.cli.bench_options import duration, setting_of
from vllm_ci.cli.options import Number, option
from vllm_ci.cli.output import json_option, print_json
from vllm_ci.domain.errors import ErroredError, UsageError
from vllm_ci.domain.plain import one_line
from vllm_ci.domain.plain_json import dumps

if TYPE_CHECKING:
    from rich.console import Console

    from vllm_ci.domain.report import Verdict
    from vllm_ci.performance.load import Load
    from vllm_ci.performance.measuring import Measurement, Setting
    from vllm_ci.performance.server import Served

_EVERY_S = 1.0
_WORKLOADS = ("chat", "code", "long-context", "multi-turn", "shared-prefix", "structured")
_POSITIVE = Number(min=0, min_open=True)
_RATE = Number(min=0, min_open=True, max=10_000)
"""A client cannot send more; a larger rate would only fill its memory with requests that are late."""
_LIMIT: dict[str, Any] = {"type": _POSITIVE, "metavar": "MS"}
_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(invoke_without_command=True)
@click.option(
    "--url",
    "urls",
    multiple=True,
    envvar="VLLM_CI_URL",
    show_envvar=True,
    help="URL of an OpenAI-compatible server. Given twice, both are compared.",
)
@option("--model", help="Model name on the server. Default: the first that it lists.")
@option("--api-key-env", metavar="NAME", help="Environment variable with the server's API key.")
@option("--workload", type=click.Choice(_WORKLOADS), help="What is asked. Default: chat.")
@option("--workload-file", type=_FILE, help="Requests of your own: JSONL, ShareGPT, or a trace (CSV, JSONL).")
@option("--real-history", is_flag=True, help="Later turns of a conversation repeat the model's answers, not synthetic ones.")
@option("--rate", type=_RATE, metavar="PER_S", help="Open loop: requests per second, however long answers take.")
@option("--concurrency", type=click.IntRange(min=1), metavar="N", help="Closed loop: conversations at a time. Default: 8.")
@option(
    "--arrivals", type=click.Choice(("poisson", "constant", "gamma")), default="poisson", show_default=True, help="With --rate."
)
@option("--burstiness", type=_POSITIVE, default=1.0, help="Of gamma arrivals; less is burstier.")
@option("--duration", type=duration, metavar="DURATION", default="60", show_default=True, help="Of the load: 90, 90s, 10m, 1h.")
@option(
    "--warm-up",
    type=duration,
    metavar="DURATION",
    help="Not counted at the start. Default: 5 s, or a tenth of the duration if that is less.",
)
@option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same requests at the same times.")
@option("--ttft", **_LIMIT, help="Objective: time to first token. Goodput counts requests that meet all objectives.")
@option("--tpot", **_LIMIT, help="Objective: time per further token.")
@option("--e2e", **_LIMIT, help="Objective: time of the whole answer.")
@option("--rounds", type=click.IntRange(min=3, max=200), default=6, show_default=True, help="Of a comparison.")
@option("--aa", is_flag=True, help="Compare the server with itself; without --url, the image of this project's commit.")
@option("--sweep", is_flag=True, help="Search the highest rate that meets the objective; starts at --rate, or 1.")
@option(
    "--good",
    type=Number(min=0.5, max=0.99),
    default=0.9,
    show_default=True,
    metavar="SHARE",
    help="Share of the requests that must meet the objective in a sweep.",
)
@option("--overload", is_flag=True, help="Send more than the server can serve, between two calm phases of --rate.")
@option(
    "--overload-factor",
    type=Number(min=1.2, max=100),
    default=2.0,
    show_default=True,
    metavar="FACTOR",
    help="Rate of an overload, in multiples of the capacity.",
)
@option("--report-dir", type=_FOLDER, help="Write the JSON document there, and the page of a sweep.")
@json_option
@click.pass_context
def bench(context: click.Context, /, *, urls: tuple[str, ...], aa: bool, sweep: bool, as_json: bool, **given: Any) -> int:
    """Measure a server under load, compare two servers, search the capacity of one, or overload it.

    \b
    Examples:
      vllm-ci bench --url http://127.0.0.1:8000
      vllm-ci bench --url http://127.0.0.1:8000 --workload code --rate 4 --duration 2m
      vllm-ci bench --url https://llm.example.com --api-key-env LLM_KEY --concurrency 32 --ttft 500 --tpot 50
      vllm-ci bench --url http://127.0.0.1:8000 --workload-file requests.jsonl
      vllm-ci bench --url http://127.0.0.1:8000 --url http://127.0.0.1:8001 --rounds 10 --duration 5m
      vllm-ci bench --url http://127.0.0.1:8000 --sweep --ttft 500 --tpot 50 --report-dir sweep
      vllm-ci bench --url http://127.0.0.1:8000 --overload --duration 30

    Latencies count from the time at which a request was due. Percentiles are shown from 11 (p50), 64 (p90), 130 (p95) and
    662 (p99) requests on. Ctrl-C ends the load early and keeps what was measured.

    Two servers are measured in rounds in random order, with the same requests. The answer is about these two processes: a
    comparison of two versions needs several starts of each.

    An overload must be served or refused (429, 503), and latency must be back afterwards; anything else has failed.

    Exit code: 0 measured, 1 requests failed, 2 usage, 3 errored (no server, nothing measured, interrupted), 4 inconclusive (the
    client was too slow, others used the server, or the capacity is outside the tried rates).
    """
    if context.invoked_subcommand:
        bench_checks.subcommand(context)
        return 0
    from vllm_ci.cli import bench_overload, options, progress

    if aa and not urls:
        from vllm_ci.cli.bench_aa import compare_with_itself

        bench_checks.image(context)
        return compare_with_itself(options.loaded(context), as_json=as_json)
    setting = setting_of(given)
    bench_checks.servers(context, urls, {**given, "aa": aa, "sweep": sweep}, setting)
    if given["overload"]:
        bench_overload.check(urls, aa=aa, sweep=sweep, concurrency=given["concurrency"], setting=setting)
    if (folder := given["report_dir"]) is not None:
        bench_checks.folder(folder)
    screen = progress.console()
    servers = [_served(url, given["model"] or "", given["api_key_env"] or "") for url in (urls[:1] if aa else urls)]
    for server in servers:
        _introduce(screen, server, setting, overload=given["overload"])
    result = _loaded(screen, servers, setting, given, aa=aa, sweep=sweep)
    with signals.put_off():
        found = result()
        try:
            if folder is not None:
                _store(screen, folder, found)
        finally:  # a full disk, or a reader who went away, must not take what was measured
            if as_json:
                print_json(found.document)
            else:
                found.show()
    return found.verdict.exit_code


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Result:
    """What a command found.

    Attributes:
        verdict: Whether it can be trusted.
        document: As JSON.
        show: Prints it for a person.
        page: Writes its page into a folder and returns it; ``None``: it has none.
    """

    verdict: Verdict
    document: dict[str, Any]
    show: Callable[[], None]
    page: Callable[[Path], Path] | None = None


def _loaded(
    screen: Console, servers: list[Served], setting: Setting, given: dict[str, Any], *, aa: bool, sweep: bool
) -> Callable[[], _Result]:
    """Do what was asked for, which a signal ends early; what is returned makes the result of what was measured."""
    if sweep:
        return _swept(screen, servers[0], setting, given)
    if given["overload"]:
        return _overloaded(screen, servers[0], setting, given["overload_factor"])
    if aa or len(servers) == 2:
        return _compared(screen, servers, setting, given["rounds"])
    return _measured(screen, servers[0], setting)


def _facts(server: Served) -> dict[str, object]:
    return {"url": server.url, "model": server.facts.model, "version": server.facts.version}


def _store(screen: Console, folder: Path, found: _Result) -> None:
    name = f"bench-{dt.datetime.now(tz=dt.UTC):%Y%m%dT%H%M%S.%f}Z.json"
    try:
        if found.page is not None:
            screen.print(f"report: {found.page(folder)}")
        (folder / name).write_text(dumps(found.document), encoding="utf-8")
    except OSError as error:
        raise bench_checks.unwritable(folder, error) from error


def _served(url: str, model: str, key: str) -> Served:
    from vllm_ci.performance.server import served
    from vllm_ci.suites.reach import UnreachableError

    if key and not os.environ.get(key):
        raise UsageError(f"the environment variable {key} is empty or not set", remedy=f"export {key}=... before the call")
    try:
        return served(url, model=model, key=os.environ[key] if key else "")
    except UnreachableError as error:
        raise ErroredError(error.message, why=error.why, remedy=error.remedy) from error


def _introduce(screen: Console, server: Served, setting: Setting, *, overload: bool) -> None:
    loop = f"{setting.rate:g} requests/s" if setting.rate else f"{setting.concurrency} at a time"
    loop = "at its own times" if setting.workload.timed else loop
    loop = "overload" if overload else loop
    version = f", vLLM {one_line(server.facts.version, 50)}" if server.facts.is_vllm else ""
    screen.print(f"{one_line(server.facts.model, 200)} at {server.url}{version}")
    screen.print(f"{setting.workload.id}, {loop}, {setting.duration_s:g} s; {setting.workload.source}")
    _, scale = setting.workload.fitting(server.facts.max_model_len)
    if scale < 1:
        screen.print(f"lengths are scaled by {scale:.2f} to its context of {server.facts.max_model_len} tokens", style="yellow")
    if not server.exact:
        screen.print("prompt lengths are about right: the server has no tokenizer route", style="yellow")


def _measured(screen: Console, server: Served, setting: Setting) -> Callable[[], _Result]:
    from vllm_ci.cli import bench_output

    found = _watched(screen, server, setting)

    def result() -> _Result:
        if found.repeated:
            said = f"{found.repeated}: an earlier run had the same --seed; another one sends other prompts"
            screen.print(said, style="yellow")
        facts = _result_facts("measurement", server, here=found.resources.pid is not None)
        document = {**facts, **found.document()}
        return _Result(verdict=found.verdict, document=document, show=lambda: bench_output.measurement(found))

    return result


def _result_facts(kind: str, server: Served, *, here: bool) -> dict[str, object]:
    """What a result must say so that its history can be drawn.

    Args:
        kind: Of the result.
        server: The server.
        here: It runs on this machine.
    """
    now = dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds")
    return {"kind": kind, "ended": now, "hardware": _hardware(server, here=here), **_facts(server)}


def _hardware(server: Served, *, here: bool) -> str:
    """The machine of a server, as far as it is known: results of different machines are not compared."""
    from vllm_ci.engines import machine

    if not here:
        return f"of {urlsplit(server.url).hostname}"
    facts = machine.facts()
    memory = round(int(str(facts["memory_bytes"])) / 2**30)
    return ", ".join([f"{facts['cpu']}, {facts['cores']} cores, {memory} GiB", *machine.gpus()])


@bench.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@json_option
def history(*, folder: Path, as_json: bool) -> int:
    """Show stored results over time, and where they changed.

    \b
    Examples:
      vllm-ci bench history results
      vllm-ci bench history results --json

    FOLDER holds documents that `vllm-ci bench --report-dir` wrote: measurements, sweeps and overloads. Results of the same
    hardware, model and load make a series; from 10 results on, change points are searched with Apache Otava (pip install
    'vllm-ci[history]').
    """
    from vllm_ci.cli import bench_output
    from vllm_ci.performance import history as stored

    documents, left_out = stored.read(folder)
    found = stored.series(documents)
    if as_json:
        print_json({"results": len(documents), "left_out": left_out, "series": [dataclasses.asdict(each) for each in found]})
    else:
        bench_output.history(found, left_out)
    return 0


def _compared(screen: Console, servers: list[Served], setting: Setting, rounds: int) -> Callable[[], _Result]:
    from vllm_ci.cli import bench_output
    from vllm_ci.performance.versus import compare

    a, b = servers[0], servers[-1]
    found = compare(a, b, setting, rounds=rounds, same=a is b, tell=screen.print)

    def result() -> _Result:
        document = {"kind": "comparison", "a": _facts(a), "b": _facts(b), **found.document()}
        return _Result(verdict=found.verdict, document=document, show=lambda: bench_output.comparison(found))

    return result


def _swept(screen: Console, server: Served, setting: Setting, given: dict[str, Any]) -> Callable[[], _Result]:
    from vllm_ci.cli import bench_output
    from vllm_ci.performance import page
    from vllm_ci.performance.sweep import sweep

    found = sweep(
        server,
        setting,
        share=given["good"],
        start=setting.rate or 1.0,
        tell=lambda step: screen.print(bench_output.step(step)),
    )

    def result() -> _Result:
        here = any(step.measurement.resources.pid is not None for step in found.steps)
        facts = {**_result_facts("sweep", server, here=here), "setting": {**setting.limits, "good_share": given["good"]}}
        return _Result(
            verdict=found.verdict,
            document={**facts, **found.document()},
            show=lambda: bench_output.capacity(found),
            page=lambda folder: page.write(folder, found, facts=_facts(server)),
        )

    return result


def _overloaded(screen: Console, server: Served, setting: Setting, factor: float) -> Callable[[], _Result]:
    from vllm_ci.cli import bench_overload

    found, document = bench_overload.overloaded(server, setting, factor=factor, tell=screen.print, watch=_watching(screen))

    def result() -> _Result:
        facts = _result_facts("overload", server, here=bench_overload.is_here(found))
        return _Result(verdict=found.verdict, document={**facts, **document}, show=lambda: bench_overload.output(found))

    return result


def _watched(screen: Console, server: Served, setting: Setting) -> Measurement:
    from vllm_ci.performance.measuring import measure

    found = measure(server, setting, watch=_watching(screen))
    if screen.is_terminal:
        screen.print(" " * 60, end="\r")
    return found


def _watching(screen: Console) -> Callable[[Load], None]:
    """Prints once a second how far a load is, on a terminal."""
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
        )

    return watch
