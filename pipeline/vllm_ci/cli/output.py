"""Output of commands: with ``--json``, one JSON object on standard output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from vllm_ci.domain.plain_json import dumps

_Command = TypeVar("_Command", bound=Callable[..., Any])


def json_option(command: _Command) -> _Command:
    """``--json``: standard output is one JSON object, progress and logs go to standard error."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")(command)


def print_json(value: object) -> None:
    """Print ``value`` (dicts, lists, scalars) as the command's one JSON object."""
    click.echo(dumps(value))
