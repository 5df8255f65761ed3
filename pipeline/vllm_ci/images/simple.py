"""Pages of package indexes (simple repository API, PEP 503 and PEP 691)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pypi_simple import ACCEPT_JSON_PREFERRED, DistributionPackage, ProjectPage, UnsupportedContentTypeError

if TYPE_CHECKING:
    import httpx


def packages(root: str, project: str, http: httpx.Client, only: tuple[str, str] | None = None) -> list[DistributionPackage]:
    """What the index ``root`` has of a project; nothing when it has no such page.

    Args:
        root: URL of the index.
        project: Name of the project.
        http: The client.
        only: File name and SHA-256 of the one file that is looked for: pages list thousands, and to take in all of them costs
            more than to receive a small wheel. Others may be returned nevertheless.
    """
    answer = http.get(f"{root.rstrip('/')}/{project}/", headers={"Accept": ACCEPT_JSON_PREFERRED})
    if answer.is_error:
        return []
    kind = answer.headers.get("content-type", "").partition(";")[0].strip()
    try:
        if kind.endswith("+json"):
            return ProjectPage.from_json_data(_few(answer.json(), only), base_url=str(answer.url)).packages
        return ProjectPage.from_html(project, answer.text, base_url=str(answer.url)).packages
    except (ValueError, UnsupportedContentTypeError):
        return []


def _few(page: Any, only: tuple[str, str] | None) -> Any:
    """A page with only the files that are looked for."""
    if only is None or not isinstance(page, dict) or not isinstance(page.get("files"), list):
        return page
    name, sha256 = only
    return {**page, "files": [each for each in page["files"] if not isinstance(each, dict) or _is(each, name, sha256)]}


def _is(file: dict[str, Any], name: str, sha256: str) -> bool:
    hashes = file.get("hashes")
    return file.get("filename") == name or (isinstance(hashes, dict) and hashes.get("sha256") == sha256)


def listed(root: str, project: str, http: httpx.Client) -> Iterator[tuple[str, str]]:
    """URL and file name of everything an index has of a project."""
    for package in packages(root, project, http):
        yield package.url.partition("#")[0], package.filename
