"""Output of commands: with ``--json``, one JSON object on standard output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from vllm_ci.ci.log_commands import harmless, harmless_json
from vllm_ci.domain.plain import visible
from vllm_ci.domain.plain_json import dumps

_Command = TypeVar("_Command", bound=Callable[..., Any])


def json_option(command: _Command) -> _Command:
    """``--json``: standard output is one JSON object, progress and logs go to standard error."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")(command)


def say(line: str) -> None:
    """Print one line. Names, reasons and values in it are often what others wrote: see :func:`show`."""
    show(line.replace("\n", " "))


def show(text: str, *, err: bool = False) -> None:
    """Print text of others, also of several lines: nothing in it is obeyed by a terminal, or is a command for a CI provider."""
    click.echo(harmless(visible(text)), err=err)


def print_json(value: object) -> None:
    """Print ``value`` (dicts, lists, scalars) as the command's one JSON object, in which a CI provider finds no command."""
    click.echo(harmless_json(dumps(value)))
