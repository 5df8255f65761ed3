"""Outputs of a command for the steps and jobs after it: as the provider takes them, and as a file that others can read."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from vllm_ci.ci import current, log_commands
from vllm_ci.ci.current import Provider

FILE = "VLLM_CI_OUTPUTS"
PREFIX = "VLLM_CI_OUT_"
# Other characters than those of references and paths could end a line or an option.
_VALUE = re.compile(r"[\w@:/.,+~=-]*", re.ASCII)


def write(values: Mapping[str, str], env: Mapping[str, str] = os.environ) -> list[str]:
    """Write the outputs to the files that are read after this process, and return the lines to print for the provider.

    The file that ``VLLM_CI_OUTPUTS`` names has lines ``VLLM_CI_OUT_VERDICT=passed``: a dotenv report of GitLab, properties of
    Jenkins. Outputs of an earlier command in it are kept if this one does not have them.

    Args:
        values: Outputs by name, in lower case. A value with other characters than those of references and paths is left empty.
        env: Environment variables of this process.

    Raises:
        OSError: A file cannot be written.
    """
    found = {name: value if _VALUE.fullmatch(value) else "" for name, value in values.items()}
    provider = current.provider(env)
    if provider is Provider.GITHUB and (path := env.get("GITHUB_OUTPUT", "")):
        with Path(path).open("a", encoding="utf-8") as file:
            file.writelines(_github(name, value) for name, value in found.items())
    if path := env.get(FILE, ""):
        _replace(Path(path), {f"{PREFIX}{name.upper()}": value for name, value in found.items()})
    return [line for name, value in found.items() if (line := log_commands.output(provider, name, value))]


def _github(name: str, value: str) -> str:
    """https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands#multiline-strings."""
    end = f"end-{secrets.token_hex(8)}"
    return f"{name}<<{end}\n{value}\n{end}\n"


def _replace(file: Path, values: Mapping[str, str]) -> None:
    """The file with these values, changed in one step."""
    file.parent.mkdir(parents=True, exist_ok=True)
    merged = {**dict(_read(file)), **values}
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.write_text("".join(f"{name}={value}\n" for name, value in merged.items()), encoding="utf-8")
    part.replace(file)


def _read(file: Path) -> Iterator[tuple[str, str]]:
    """Our own lines of the file; none if there is no file."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    for line in lines:
        name, _, value = line.partition("=")
        if name.startswith(PREFIX):
            yield name, value
