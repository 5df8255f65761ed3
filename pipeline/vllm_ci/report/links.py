"""Addresses of pages about a commit, a pull request and a security advisory. Only ``https`` and ``http`` are ever linked."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from vllm_ci.domain.commit import Commit

# user@host:path, as git and ssh write it
_SSH = re.compile(r"(?:[\w.-]+@)?(?P<host>[\w.-]+\.[\w-]+):(?P<path>(?!//)[\w./~-]+)")
_HOST = re.compile(r"[\w.-]+(:\d{1,5})?")
_ADVISORY = re.compile(r"\b(?:CVE-\d{4}-\d{4,}|GHSA(?:-[23456789cfghjmpqrvwx]{4}){3}|PYSEC-\d{4}-\d+|D[SL]A-\d+-\d+)\b")
# By a word in the name of the host: the page of a commit and of a pull request, below that of the repository.
_LAYOUTS = {
    "gitlab": ("/-/commit/{}", "/-/merge_requests/{}"),
    "bitbucket": ("/commits/{}", "/pull-requests/{}"),
    "gitea": ("/commit/{}", "/pulls/{}"),
    "forgejo": ("/commit/{}", "/pulls/{}"),
    "codeberg": ("/commit/{}", "/pulls/{}"),
    "github": ("/commit/{}", "/pull/{}"),
}


def repository(source: str) -> str:
    """Address of a repository's page from the URL of its remote, without credentials; empty if it has none."""
    if (ssh := _SSH.fullmatch(source)) is not None:
        return f"https://{ssh['host']}/{_path(ssh['path'])}"
    try:
        parts = urlsplit(source)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port and parts.scheme in {"http", "https"} else ""
    except ValueError:
        return ""
    if parts.scheme not in {"http", "https", "ssh", "git"} or not _HOST.fullmatch(host) or not parts.path.strip("/"):
        return ""
    scheme = parts.scheme if parts.scheme in {"http", "https"} else "https"
    return f"{scheme}://{host}{port}/{_path(parts.path)}"


def commit(of: Commit) -> str:
    """Address of the page of a commit; empty where the layout of the host's pages is unknown."""
    return _page(of.source, 0, of.sha)


def pull_request(of: Commit) -> str:
    """Address of the page of the commit's pull request; empty if it has none, or the layout is unknown."""
    return _page(of.source, 1, of.pull_request) if of.pull_request.isdigit() else ""


def advisory(text: str) -> str:
    """Address of the first security advisory that a text names, in the OSV database; empty if it names none."""
    found = _ADVISORY.search(text)
    return f"https://osv.dev/vulnerability/{found[0]}" if found else ""


def _page(source: str, kind: int, name: str) -> str:
    page = repository(source)
    layout = next((layouts for word, layouts in _LAYOUTS.items() if word in (urlsplit(page).hostname or "")), None)
    return page + layout[kind].format(quote(name)) if page and layout else ""


def _path(path: str) -> str:
    return quote(path.strip("/").removesuffix(".git"), safe="/~%")
