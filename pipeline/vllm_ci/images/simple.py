"""Pages of package indexes (simple repository API, PEP 503 and PEP 691)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pypi_simple import ACCEPT_JSON_PREFERRED, DistributionPackage, ProjectPage, UnsupportedContentTypeError

if TYPE_CHECKING:
    import httpx


def packages(root: str, project: str, http: httpx.Client) -> list[DistributionPackage]:
    """What the index ``root`` has of a project; nothing when it has no such page."""
    answer = http.get(f"{root.rstrip('/')}/{project}/", headers={"Accept": ACCEPT_JSON_PREFERRED})
    if answer.is_error:
        return []
    kind = answer.headers.get("content-type", "").partition(";")[0].strip()
    try:
        if kind.endswith("+json"):
            return ProjectPage.from_json_data(answer.json(), base_url=str(answer.url)).packages
        return ProjectPage.from_html(project, answer.text, base_url=str(answer.url)).packages
    except (ValueError, UnsupportedContentTypeError):
        return []


def listed(root: str, project: str, http: httpx.Client) -> Iterator[tuple[str, str]]:
    """URL and file name of everything an index has of a project."""
    for package in packages(root, project, http):
        yield package.url.partition("#")[0], package.filename
