"""``vllm-ci bench --overload``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from vllm_ci.cli.bench_output import spread, table, verdict
from vllm_ci.domain.errors import UsageError

if TYPE_CHECKING:
    from vllm_ci.performance.driven import Phase
    from vllm_ci.performance.load import Load
    from vllm_ci.performance.measuring import Setting
    from vllm_ci.performance.overload_result import Overload
    from vllm_ci.performance.server import Served

_BYTES = {"rss_bytes": "memory (RSS)", "pss_bytes": "memory (PSS)", "gpu_bytes": "memory of GPUs"}


def check(urls: tuple[str, ...], *, aa: bool, sweep: bool, concurrency: int | None, setting: Setting) -> None:
    """Refuse options that cannot be used with ``--overload``.

    Raises:
        UsageError: One of them was given.
    """
    if aa or sweep or len(urls) > 1:
        raise UsageError("--overload measures one server", remedy="give one --url, without --aa and --sweep")
    if concurrency:
        raise UsageError(
            "--overload cannot be used with --concurrency",
            why="a closed loop waits for the server, so that it cannot overload it",
            remedy="use --rate for the load before and after the overload, or neither",
        )
    if setting.workload.timed:
        raise UsageError(
            "the file has arrival times of its own, which an overload does not use",
            remedy="give --rate for the load before and after the overload",
        )


def overloaded(
    server: Served,
    setting: Setting,
    *,
    factor: float,
    tell: Callable[[str], None],
    watch: Callable[[Load], None],
) -> tuple[Overload, dict[str, Any]]:
    """Overload a server; the result, and the result as JSON."""
    from vllm_ci.performance.overload import overload
    from vllm_ci.performance.overload_result import summary

    found = overload(server, setting, factor=factor, tell=tell, watch=watch)
    return found, {"summary": summary(found), **found.document()}


def is_here(found: Overload) -> bool:
    """Whether the server runs on this machine: its memory is known then."""
    return not _BYTES.keys().isdisjoint(found.memory)


def output(found: Overload) -> None:
    """Print the phases side by side, and what the server did."""
    from vllm_ci.performance.overload_result import summary

    phases = [each for each in (found.calm, found.overload, found.recovery) if each is not None]
    if phases:
        names = ("", "calm", "overload", "recovery")[: len(phases) + 1]
        table([names, *_rows(phases)])
    rows = [(name, said) for name, said in _facts(found) if said]
    if rows:
        table(rows)
    if said := summary(found):
        click.echo(said)
    verdict(found.verdict, found.reasons)


def _rows(phases: list[Phase]) -> list[tuple[str, ...]]:
    kinds = dict.fromkeys(name for each in phases for name in each.outcomes)
    rows = [("requests/s", *(f"{each.rate:.3g}" for each in phases))]
    rows += [(name, *(str(each.outcomes.get(name, 0)) for each in phases)) for name in kinds]
    rows.append(("answers/s", *(f"{each.served_per_s:.3g}" for each in phases)))
    if any(each.goodput_per_s is not None for each in phases):
        rows.append(("goodput/s", *(f"{each.goodput_per_s or 0:.3g}" for each in phases)))
    rows.append(("ttft p50, ms", *(_median(each) for each in phases)))
    if any(each.wrong_tokens for each in phases):
        rows.append(("wrong number of tokens", *(str(each.wrong_tokens) for each in phases)))
    return rows


def _median(phase: Phase) -> str:
    found = phase.ttft_ms.percentiles.get(50.0) if phase.ttft_ms else None
    return "-" if found is None else f"{found:.1f}"


def _facts(found: Overload) -> list[tuple[str, str]]:
    room, under = found.capacity, found.overload
    rows = [("capacity", f"{room.capacity_per_s:.3g} answers/s" if room is not None and room.found else "")]
    if under is not None:
        rows.append(("ttft under overload", spread(under.ttft_ms)))
    if found.limit_ms is not None:
        rows.append(("latency is back", f"when ttft p50 is at most {found.limit_ms:.1f} ms"))
    for name, values in found.memory.items():
        size, unit = (2**20, " MiB") if name in _BYTES else (1, "")
        before, peak, after = (f"{value / size:.0f}{unit}" for value in values)
        rows.append((_BYTES.get(name, name.replace("_", " ")), f"{before} before, peak {peak}, {after} after"))
    return rows
