"""The requirements of one wheel, without downloading it where the index offers its metadata (PEP 658)."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
from packaging.metadata import parse_email

from vllm_ci.domain.errors import BuildError
from vllm_ci.images.fetch import client
from vllm_ci.images.index import configured


def requirements(place: str) -> list[str]:
    """``Requires-Dist`` of the wheel at ``place``: a URL, or a path of this machine.

    Raises:
        BuildError: It cannot be read.
    """
    parts = urlsplit(place.partition("#")[0])
    try:
        content = _of_file(Path(unquote(parts.path))) if parts.scheme in {"", "file"} else _fetched(parts.geturl())
    except (OSError, httpx.HTTPError, zipfile.BadZipFile, StopIteration) as error:
        raise BuildError(
            f"the metadata of {parts.path.rpartition('/')[2]} cannot be read",
            why=str(error) or type(error).__name__,
            remedy="check that the package index answers (vllm-ci doctor)",
        ) from error
    return list(parse_email(content)[0].get("requires_dist") or ())


def _fetched(url: str) -> bytes:
    with client(configured().certificates) as http:
        offered = http.get(f"{url}.metadata")
        if offered.is_success:
            return offered.content
        return _of_file(BytesIO(http.get(url).raise_for_status().content))


def _of_file(wheel: Path | BytesIO) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        name = next(each for each in archive.namelist() if each.count("/") == 1 and each.endswith(".dist-info/METADATA"))
        return archive.read(name)
