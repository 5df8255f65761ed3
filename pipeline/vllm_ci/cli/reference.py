"""Writes ``docs/cli.md`` from the help of the commands: ``python -m vllm_ci.cli.reference > docs/cli.md``. A test checks it."""

from __future__ import annotations

import sys

import click

from vllm_ci.cli import COMMANDS, root

_TOP = """\
# Command line

Written by `python -m vllm_ci.cli.reference > docs/cli.md`. Standard output of a command with `--json` is one JSON object;
progress and logs go to standard error. Exit codes: 0 passed or done, 1 failed (a verdict, a refused policy), 2 usage or
configuration, 3 errored (no verdict: the pipeline itself failed), 4 inconclusive, 130 interrupted.
"""


def text() -> str:
    """The page."""
    names = root.context_settings["help_option_names"]
    context = click.Context(
        root, info_name="vllm-ci", max_content_width=110, terminal_width=110, color=False, help_option_names=names
    )
    parts = [_TOP]
    for name in COMMANDS:
        command = root.get_command(context, name)
        if command is not None:
            parts += _pages(command, name, context)
    return "\n".join(parts)


def _pages(command: click.Command, name: str, above: click.Context) -> list[str]:
    context = click.Context(command, info_name=name, parent=above, max_content_width=110, terminal_width=110)
    help_text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    pages = [f"## {context.command_path}\n\n```text\n{help_text}\n```\n"]
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            pages += _pages(found, inner, context) if found is not None else []
    return pages


if __name__ == "__main__":
    sys.stdout.write(text())
