"""apt, called from here and nowhere else: it resolves a suite's packages for any architecture, with a state of its own."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from vllm_ci.domain.errors import BuildError, UsageError
from vllm_ci.images.debian.mirrors import AptSource
from vllm_ci.images.lockfile import LockedDeb
from vllm_ci.system import external

_DEADLINE_S = 900.0
_INSTALLED = re.compile(r"^Inst (?P<name>\S+) \((?P<version>\S+) ", re.MULTILINE)


def resolve(packages: Iterable[str], *, architecture: str, sources: Iterable[AptSource], state: Path) -> list[LockedDeb]:
    """What installing ``packages`` on an empty system would install, without recommendations.

    Args:
        packages: Names.
        architecture: Debian architecture (``amd64``); any host resolves for any.
        sources: Mirrors; their signatures are checked by apt.
        state: Folder for apt's lists, kept between calls.

    Raises:
        BuildError: apt refused.
        UsageError: There is no apt.
    """
    if not shutil.which("apt-get"):
        raise UsageError(
            "apt-get was not found",
            why="locking Debian packages uses apt's resolver; building does not",
            remedy="run vllm-ci lock on a Debian or Ubuntu host or in such a container",
        )
    options = _options(architecture, list(sources), state)
    _run("apt-get", "--quiet", *options, "update")
    planned = _run("apt-get", "--quiet", "--simulate", "--no-install-recommends", *options, "install", *packages)
    chosen = [(match["name"].partition(":")[0], match["version"]) for match in _INSTALLED.finditer(planned)]
    records = _run("apt-cache", *options, "show", *(f"{name}={version}" for name, version in chosen))
    return [_deb(record, architecture) for record in records.strip().split("\n\n") if record]


def _options(architecture: str, sources: list[AptSource], state: Path) -> list[str]:
    folder = state / architecture
    for name in ("lists/partial", "cache/archives/partial", "parts"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").write_bytes(b"")
    lines = []
    for source in sources:
        signed = f" signed-by={source.signed_by}" if source.signed_by else ""
        lines.append(f"deb [arch={architecture}{signed}] {source.uri} {source.suite} {' '.join(source.components)}")
    (folder / "parts" / "mirrors.list").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "Dir::State": folder,
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": folder / "parts",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
    }
    return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]


def _run(*command: str) -> str:
    # Its output is parsed: the user's language must not change it.
    done = external.run(
        command,
        what=command[0],
        deadline_s=_DEADLINE_S,
        env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        remedy="check that the Debian mirrors answer (apt-get update)",
    )
    if done.exit_code:
        raise BuildError(
            f"{command[0]} could not resolve the base's packages",
            why=done.tail(4),
            remedy="check the package names in the spec and apt's configuration (apt-get update)",
        )
    return done.output.decode("utf-8", "replace")


def _deb(record: str, architecture: str) -> LockedDeb:
    fields = dict(line.split(": ", 1) for line in record.split("\n") if ": " in line and not line.startswith(" "))
    return LockedDeb(
        name=fields["Package"],
        version=fields["Version"],
        architecture=architecture,
        sha256=fields["SHA256"],
        size_bytes=int(fields["Size"]),
        path=fields["Filename"].removeprefix("./"),
    )
