"""uv, called from here and nowhere else: it resolves for any platform on any host."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from vllm_ci.domain.errors import BuildError, UsageError
from vllm_ci.images.index import Indexes
from vllm_ci.images.lockfile import MACHINES
from vllm_ci.system import external, scratch

_DEADLINE_S = 900.0
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


def program() -> str:
    """Path of uv: ``VLLM_CI_UV``, the one beside this interpreter or in the checkout's ``.tools``, or that on ``PATH``.

    Raises:
        UsageError: uv is not installed.
    """
    tools = Path(__file__).resolve().parents[3] / ".tools" / "uv" / "bin" / "uv"
    for candidate in (
        os.environ.get("VLLM_CI_UV", ""),
        str(Path(sys.executable).parent / "uv"),
        str(tools),
        shutil.which("uv") or "",
    ):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise UsageError("uv was not found", why="vllm-ci lock uses it", remedy="pip install uv, or set VLLM_CI_UV to its path")


def resolve(
    requirements: Iterable[str],
    *,
    overrides: Iterable[str],
    python: str,
    glibc: str,
    platform: str,
    indexes: Indexes,
    prefer: Mapping[str, str],
    arguments: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """The packages of a resolution, as ``pylock.toml`` (PEP 751) has them: wheels for ``platform`` only.

    ``prefer`` has versions (by project) to stay with where they still fit.

    Raises:
        BuildError: No set of wheels satisfies the requirements.
        ErroredError: uv did not end in time.
    """
    with scratch.folder("lock-") as folder:
        wanted, replaced, output = (folder / name for name in ("requirements.in", "overrides.txt", "pylock.toml"))
        wanted.write_text("\n".join(requirements) + "\n", encoding="utf-8")
        replaced.write_text("\n".join(overrides) + "\n", encoding="utf-8")
        if prefer:
            output.write_text(_preferences(prefer), encoding="utf-8")
        target = f"{MACHINES[platform]}-manylinux_{glibc.replace('.', '_')}"
        places = ["--default-index", indexes.urls[0]]
        for url in indexes.urls[1:]:
            places += ["--index", url]
        for link in indexes.find_links:
            places += ["--find-links", link]
        command = [
            *(program(), "pip", "compile", "--quiet", "--no-config", "--format", "pylock.toml", "--only-binary", ":all:"),
            *("--python-version", python, "--python-platform", target, "--override", str(replaced)),
            *("--no-annotate", "--no-header", *places, *arguments, "--output-file", str(output), str(wanted)),
        ]
        done = external.run(
            command,
            what="uv pip compile",
            deadline_s=_DEADLINE_S,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder)},
            only_tail=True,
            remedy="check that the package index answers (vllm-ci doctor)",
        )
        if done.exit_code:
            raise BuildError(
                f"no set of wheels for {platform} satisfies the spec",
                why=_CREDENTIALS.sub("", done.tail(60)),
                remedy="change requirements or overrides in the spec, or name another index (UV_DEFAULT_INDEX)",
            )
        content = tomllib.loads(output.read_text(encoding="utf-8"))
    packages: list[dict[str, Any]] = content["packages"]
    return packages


def _preferences(versions: Mapping[str, str]) -> str:
    """An output file from before, as far as uv reads one: versions that stay unless told otherwise."""
    tables = [
        f"[[packages]]\nname = {json.dumps(name)}\nversion = {json.dumps(version)}\n" for name, version in versions.items()
    ]
    return "\n".join(['lock-version = "1.0"\ncreated-by = "uv"\n', *tables])


def wheel_of(package: dict[str, Any]) -> tuple[str, str, str]:
    """File name, sha256 and place of the wheel that uv chose for a package.

    Raises:
        BuildError: It chose none, or something else than a wheel with a hash.
    """
    wheels = package.get("wheels", [])
    if not wheels:
        raise BuildError(
            f"{package['name']} {package.get('version', '')} has no wheel for this platform",
            why="images are assembled from wheels; a source distribution would have to be built first",
            remedy="build a wheel of it and name its folder (UV_FIND_LINKS), or exclude the package with an override",
        )
    wheel = wheels[0]
    place = wheel.get("url") or wheel.get("path") or ""
    name = unquote(place.partition("#")[0].rpartition("/")[2])
    return wheel.get("name", name), wheel["hashes"]["sha256"], place
