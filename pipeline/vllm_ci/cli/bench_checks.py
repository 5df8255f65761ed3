"""What ``vllm-ci bench`` refuses before anything is sent: options that contradict one another, or would have no effect."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vllm_ci.cli.options import refuse_unused
from vllm_ci.domain.errors import ErroredError, UsageError

if TYPE_CHECKING:
    from vllm_ci.performance.measuring import Setting

_IMAGE = ("aa", "as_json", "model")
"""Options for a comparison of the project's own image; everything else is configured."""


def subcommand(context: click.Context) -> None:
    """Refuse options that stand before a command, and are not for it.

    Raises:
        UsageError: One of them was given.
    """
    why = f"options of {context.invoked_subcommand} stand behind its name"
    refuse_unused(context, {param.name: why for param in context.command.params if param.name})


def image(context: click.Context) -> None:
    """Refuse options that ``--aa`` without a URL does not use.

    Raises:
        UsageError: One of them was given.
    """
    why = "without --url, --aa compares the project's image with itself as stages.performance is configured"
    refuse_unused(context, {param.name: why for param in context.command.params if param.name and param.name not in _IMAGE})


def servers(context: click.Context, urls: tuple[str, ...], given: Mapping[str, Any], setting: Setting) -> None:
    """Refuse what cannot be done with servers.

    Args:
        context: The call.
        urls: The servers.
        given: All options.
        setting: What they make.

    Raises:
        UsageError: It cannot be done.
    """
    aa, sweep = given["aa"], given["sweep"]
    different = len({_base(url) for url in urls})
    if not urls:
        raise UsageError("no server to measure", remedy="give --url URL, or --aa in a project without --url")
    if len(urls) > 2:
        raise UsageError("more than two servers cannot be compared", remedy="compare them in pairs")
    if aa and different == 2:
        raise UsageError("--aa compares one server with itself", remedy="give one --url")
    if sweep and (aa or len(urls) == 2):
        raise UsageError("--sweep measures one server", remedy="give one --url, without --aa")
    if len(urls) == 2 and different == 1 and not aa:
        raise UsageError("both URLs are the same", remedy="use --aa to compare a server with itself")
    if sweep:
        _sweep(setting)
    if setting.workload.timed and (sweep or aa or len(urls) == 2):
        raise UsageError(
            "the file has arrival times of its own, which a sweep or a comparison does not use",
            remedy="give --rate or --concurrency",
        )
    refuse_unused(context, _unused(given, setting, compares=aa or len(urls) == 2))


def _sweep(setting: Setting) -> None:
    from vllm_ci.performance.sweep import RATES

    if not setting.objective:
        raise UsageError("--sweep needs an objective", remedy="give --ttft, --tpot or --e2e")
    least, most = RATES
    if setting.rate and not least <= setting.rate <= most:
        raise UsageError(
            f"a sweep cannot start at {setting.rate:g} requests/s", remedy=f"use --rate from {least:g} to {most:g}"
        )


def _unused(given: Mapping[str, Any], setting: Setting, *, compares: bool) -> dict[str, str]:
    """Options without effect, and why."""
    found: dict[str, str] = {}
    if given["sweep"]:
        found |= dict.fromkeys(("duration", "warm_up", "concurrency"), "a sweep chooses rates and times itself")
    else:
        found["good"] = "it is for --sweep"
    if given["overload"]:
        found["warm_up"] = "the calm phases of an overload are no warm-up"
    else:
        found["overload_factor"] = "it is for --overload"
    if not compares:
        found["rounds"] = "it is for a comparison of two servers"
    if not (setting.rate or given["sweep"] or given["overload"]):
        found |= dict.fromkeys(("arrivals", "burstiness"), "they are for --rate")
    if given["arrivals"] != "gamma":
        found["burstiness"] = "it is for --arrivals gamma"
    return found


def _base(url: str) -> str:
    """The server of a URL; the URL itself where it is none, which is said when the server is asked."""
    from vllm_ci.suites.reach import UnreachableError, base_url

    try:
        return base_url(url)
    except UnreachableError:
        return url


def folder(path: Path) -> None:
    """Make a folder for results, before a result exists that could be lost.

    Raises:
        ErroredError: It cannot be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> ErroredError:
    """The error for a folder that cannot be written to."""
    return ErroredError(f"cannot write to {path}", why=str(error), remedy="name another folder with --report-dir")
