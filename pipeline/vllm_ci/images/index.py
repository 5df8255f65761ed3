"""The user's package indexes: from uv's and pip's own configuration, in that order."""

from __future__ import annotations

import configparser
import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_ci.domain.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Indexes:
    """Where wheels come from.

    Attributes:
        urls: Roots of simple repositories, the default one first.
        find_links: Folders or pages with wheels.
        certificates: File with the certificate authorities to trust, empty for the system's.
    """

    urls: tuple[str, ...]
    find_links: tuple[str, ...] = ()
    certificates: str = ""


def configured(environ: Mapping[str, str] = os.environ) -> Indexes:
    """The indexes of this user: environment variables before files, uv's before pip's."""
    uv, pip = _uv_files(environ), _pip_files(environ)
    default = (
        environ.get("UV_DEFAULT_INDEX")
        or environ.get("UV_INDEX_URL")
        or uv.get("default")
        or environ.get("PIP_INDEX_URL")
        or pip.get("index-url")
        or _public()
    )
    extra = _words(environ.get("UV_INDEX"), environ.get("UV_EXTRA_INDEX_URL")) or uv.get("extra")
    extra = extra or _words(environ.get("PIP_EXTRA_INDEX_URL")) or _words(pip.get("extra-index-url"))
    # uv separates by commas, pip by spaces.
    links = [link for link in environ.get("UV_FIND_LINKS", "").split(",") if link] or uv.get("links")
    links = links or _words(environ.get("PIP_FIND_LINKS")) or _words(pip.get("find-links"))
    names = [default, *(extra or ())]
    return Indexes(
        urls=tuple(dict.fromkeys(_without_name(name) for name in names)),
        find_links=tuple(links or ()),
        certificates=environ.get("SSL_CERT_FILE") or environ.get("PIP_CERT") or pip.get("cert", ""),
    )


def _public() -> str:
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    return str(PYPI_SIMPLE_ENDPOINT)


def _words(*texts: str | None) -> list[str]:
    return [word for text in texts if text for word in text.replace(",", " ").split()]


def _without_name(index: str) -> str:
    """The URL of ``name=url``, uv's way to name an index."""
    name, equals, url = index.partition("=")
    return url if equals and "/" not in name else index


def _uv_files(environ: Mapping[str, str]) -> dict[str, Any]:
    home = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    files = (
        [Path(environ["UV_CONFIG_FILE"])]
        if environ.get("UV_CONFIG_FILE")
        else [home / "uv" / "uv.toml", Path("/etc/uv/uv.toml")]
    )
    for path in files:
        if not path.is_file():
            continue
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read", why=str(error), remedy="correct the file: uv reads it too") from error
        merged = {**content, **content.get("pip", {})}
        tables = merged.get("index", [])
        return {
            "default": next((str(table["url"]) for table in tables if table.get("default")), merged.get("index-url")),
            "extra": [str(table["url"]) for table in tables if not table.get("default")]
            + list(merged.get("extra-index-url", [])),
            "links": list(merged.get("find-links", [])),
        }
    return {}


def _pip_files(environ: Mapping[str, str]) -> dict[str, str]:
    """``[global]`` and then ``[install]`` of pip's files; a later file wins (pip's documentation, Configuration)."""
    home = Path.home()
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return {}
    files = [
        *(Path(folder) / "pip" / "pip.conf" for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")),
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf",
        Path(sys.prefix) / "pip.conf",
        *([Path(named)] if named else []),
    ]
    found: dict[str, str] = {}
    for path in files:
        parser = configparser.RawConfigParser()
        parser.read(path)
        for section in ("global", "install"):
            if parser.has_section(section):
                found |= dict(parser.items(section))
    return found
