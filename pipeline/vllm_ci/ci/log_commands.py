"""What providers read in the log of a job: folds, annotations, outputs; and text of others made harmless for them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vllm_ci.ci.current import Provider

# GitHub reads `::name ...::` at the start of a line, GitHub and Azure `##[name]` and `##vso[name]` anywhere in it, TeamCity
# `##teamcity[name]`. GitHub and Azure take a carriage return alone for the end of a line (.NET, TextReader.ReadLine).
_AT_START = re.compile(r"(^|\r)(\s*):(?=:)", re.MULTILINE)
_ANYWHERE = re.compile(r"##(?=(?:vso|teamcity)?\[)", re.IGNORECASE)
# GitLab's runner reads section marks anywhere in a line.
_SECTION = re.compile(r"section_(start|end):(?=\d)")


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """A failure for the provider's own list of them.

    Attributes:
        title: In one line.
        message: What is wrong.
        path: File in the repository; empty if it is about none.
        line: In that file, from 1; 0 if it is not known.
    """

    title: str
    message: str
    path: str = ""
    line: int = 0


def harmless(text: str) -> str:
    """The text with a space in everything that a provider would take for a command."""
    return _SECTION.sub(r"section_\1: ", _ANYWHERE.sub("## ", _AT_START.sub(r"\1\2: ", text)))


def harmless_json(text: str) -> str:
    """JSON with the same values, in which a provider finds no command: marks, which only strings can have, are escaped."""
    return _SECTION.sub(r"section\\u005f\1:", _ANYWHERE.sub(r"\\u0023\\u0023", text))


def fold(provider: Provider, title: str) -> tuple[str, str]:
    """Lines that begin and end a folded part of the log; empty where the provider has none."""
    found = _FOLDS.get(provider)
    return found(title) if found else ("", "")


def annotation(provider: Provider, found: Annotation) -> str:
    """The line that makes an annotation; empty where the provider has none."""
    if provider is Provider.GITHUB:
        values = {"file": found.path, "line": found.line if found.path else 0, "title": found.title}
        properties = ",".join(f"{name}={_github_property(str(value))}" for name, value in values.items() if value)
        return f"::error {properties}::{_github_data(found.message)}"
    if provider is Provider.AZURE:
        values = {"type": "error", "sourcepath": found.path, "linenumber": found.line if found.path else 0}
        properties = "".join(f"{name}={_azure_property(str(value))};" for name, value in values.items() if value)
        return f"##vso[task.logissue {properties}]{_azure_data(f'{found.title}: {found.message}')}"
    return ""


def output(provider: Provider, name: str, value: str) -> str:
    """The line that sets an output of the step; empty where outputs are no lines of the log."""
    if provider is Provider.AZURE:
        return f"##vso[task.setvariable variable={_azure_property(name)};isOutput=true;]{_azure_data(value)}"
    return ""


def _github_fold(title: str) -> tuple[str, str]:
    return f"::group::{_github_data(title)}", "::endgroup::"


def _gitlab_fold(title: str) -> tuple[str, str]:
    """https://docs.gitlab.com/ci/jobs/job_logs/#custom-collapsible-sections."""
    now, shown = int(time.time()), harmless(title).replace("\r", " ").replace("\n", " ")
    begin = f"\x1b[0Ksection_start:{now}:vllm_ci[collapsed=true]\r\x1b[0K{shown}"
    return begin, f"\x1b[0Ksection_end:{now}:vllm_ci\r\x1b[0K"


def _buildkite_fold(title: str) -> tuple[str, str]:
    """https://buildkite.com/docs/pipelines/configure/managing-log-output: a part ends where the next one begins."""
    return f"--- {' '.join(title.split())}", "+++ Result"


def _azure_fold(title: str) -> tuple[str, str]:
    return f"##[group]{_azure_data(title)}", "##[endgroup]"


def _github_data(text: str) -> str:
    """As the toolkit of GitHub Actions escapes the text after the second ``::``."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _github_property(text: str) -> str:
    return _github_data(text).replace(":", "%3A").replace(",", "%2C")


def _azure_data(text: str) -> str:
    """https://learn.microsoft.com/azure/devops/pipelines/scripts/logging-commands#formatting-commands."""
    return harmless(text).replace("%", "%AZP25").replace("\r", "%0D").replace("\n", "%0A")


def _azure_property(text: str) -> str:
    return _azure_data(text).replace(";", "%3B").replace("]", "%5D")


_FOLDS: Mapping[Provider, Callable[[str], tuple[str, str]]] = {
    Provider.GITHUB: _github_fold,
    Provider.GITLAB: _gitlab_fold,
    Provider.BUILDKITE: _buildkite_fold,
    Provider.AZURE: _azure_fold,
}
