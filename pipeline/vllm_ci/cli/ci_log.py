"""The log of a CI job: the progress is folded, the result is told to the provider, and text of others is no command."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import click

from vllm_ci.ci import current, log_commands
from vllm_ci.ci.current import Provider

if TYPE_CHECKING:
    from vllm_ci.domain.report import Report


class _Harmless:
    """Standard error, in which nothing that is written is a command for the provider."""

    def write(self, text: str) -> int:
        sys.stderr.write(log_commands.harmless(text))
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(sys.stderr, name)


def stream() -> IO[str] | None:
    """Where to show progress and results in a CI job; ``None`` for standard error as it is."""
    return None if current.provider() is Provider.NONE else cast("IO[str]", _Harmless())


@dataclass(kw_only=True)
class Fold:
    """A part of the log that is folded from :meth:`begin` to :meth:`end`, which may be called again."""

    title: str
    _lines: tuple[str, str] = ("", "")
    _open: bool = field(default=False)

    def begin(self) -> None:
        """Print the line that begins it."""
        self._lines, self._open = log_commands.fold(current.provider(), self.title), True
        _echo(self._lines[0])

    def end(self) -> None:
        """Print the line that ends it, once."""
        if self._open:
            self._open = False
            _echo(self._lines[1])


def tell(report: Report, folder: Path, project: Path | None) -> None:
    """Tell the provider the result; a file of the provider that cannot be written is a note, not an error.

    Args:
        report: The result, without secrets.
        folder: The report's folder.
        project: Folder of the configuration, if there is one.
    """
    from vllm_ci.ci import outputs, telling

    if current.provider() is Provider.NONE and not os.environ.get(outputs.FILE):
        return

    try:
        for line in telling.tell(report, folder, _checkout(project or Path.cwd()), project):
            _echo(line)
    except OSError as error:
        _echo(f"vllm-ci: the summary or the outputs of this job cannot be written: {error}")


def tell_outputs(values: Mapping[str, str]) -> None:
    """Tell the provider the outputs of a command without a report; files that cannot be written are a note, not an error."""
    from vllm_ci.ci import outputs

    try:
        for line in outputs.write(values):
            _echo(line)
    except OSError as error:
        _echo(f"vllm-ci: the outputs of this job cannot be written: {error}")


def _checkout(folder: Path) -> Path:
    from vllm_ci.domain.errors import VllmCiError
    from vllm_ci.system import vcs

    try:
        return vcs.root(folder)
    except VllmCiError:  # a server given by its URL can be tested anywhere
        return folder


def _echo(line: str) -> None:
    if line:
        click.echo(line, err=True)
