"""One comment on the pull or merge request of a run: written by the first run for it, and replaced by each later one.

It is found by a marker that is not shown. The API of the provider is asked with a token of the user; what goes wrong there is a
warning and changes no verdict.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from vllm_ci.ci import current, run_facts
from vllm_ci.ci.current import Provider

if TYPE_CHECKING:
    import httpx

TOKEN = "VLLM_CI_COMMENT_TOKEN"  # noqa: S105 - the name of a variable
_TOKENS = {Provider.GITHUB: (TOKEN, "GITHUB_TOKEN"), Provider.GITLAB: (TOKEN, "GITLAB_TOKEN")}
_TIMEOUT_S = 20.0
_PAGE = 100
_MOST_PAGES = 30
# GitHub takes 65,536 characters.
_LONGEST = 60_000
_STAMP = re.compile(r"\s*<!-- run ([0-9]{1,18}) -->")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class NotPossible(Exception):
    """There is no comment to write, or it could not be written; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Thread:
    """The comments of a pull or merge request at the API of its provider.

    Attributes:
        comments: URL of their list.
        one: Gives the URL of a comment by its id.
        headers: With the token.
        change: Method that replaces the text of a comment.
        user: URL that tells whose token it is.
        run: Number of the run; that of a later one is greater. 0 if it is unknown.
    """

    comments: str
    one: Callable[[object], str]
    headers: Mapping[str, str]
    change: str
    user: str
    run: int = 0


def thread(env: Mapping[str, str] = os.environ) -> Thread:
    """Where to comment.

    Raises:
        NotPossible: The run is for no pull request, or for one of a fork; there is no token; the provider has no such API.
    """
    provider, number = current.provider(env), current.claim(env).pull_request
    if provider not in _TOKENS:
        raise NotPossible(f"{provider.value} has no comments that vllm-ci can write")
    if not number.isdecimal():
        raise NotPossible("this run is for no pull request")
    if run_facts.pull_request(env).fork is not False:
        raise NotPossible("the pull request is from a fork, or nothing says that it is not")
    token = next((value for name in _TOKENS[provider] if (value := env.get(name, "").strip())), "")
    if not token:
        raise NotPossible(f"there is no token: set {' or '.join(_TOKENS[provider])}")
    if not (token.isascii() and token.isprintable()):
        raise NotPossible("the token has characters that no token has")
    return {Provider.GITHUB: _github, Provider.GITLAB: _gitlab}[provider](env, number, token)


def write(found: Thread, text: str, name: str = "vllm-ci") -> str:
    """Replace our comment, or write the first one.

    Args:
        found: Where.
        text: Markdown; cut off at the provider's limit.
        name: Runs with another name have a comment of their own.

    Returns:
        Its address, or an empty text where the provider names none.

    Raises:
        NotPossible: The API cannot be reached, or refused it; a later run has commented already, as happens when two pushes are
            tested at the same time.
    """
    import httpx

    marker = f"<!-- vllm-ci:{re.sub(r'[^A-Za-z0-9_./-]', '_', name)} -->"
    stamp = f"<!-- run {found.run} -->\n" if found.run else ""
    body = {"body": f"{marker}\n{stamp}{_short(text)}"}
    try:
        with httpx.Client(headers=dict(found.headers), timeout=_TIMEOUT_S, follow_redirects=False) as client:
            ours = _ours(client, found, marker)
            if ours is not None:
                if found.run < _run_of(ours, marker):
                    raise NotPossible("a later run has commented already")
                answer = client.request(found.change, found.one(ours.get("id")), json=body)
                # Deleted since, or written by somebody whose comments this token may not change.
                if answer.status_code not in {403, 404}:
                    return _address(_checked(answer))
            return _address(_checked(client.post(found.comments, json=body)))
    except httpx.HTTPError as error:
        raise NotPossible(f"{urlsplit(found.comments).netloc} does not answer: {error or type(error).__name__}") from error


def _github(env: Mapping[str, str], number: str, token: str) -> Thread:
    """https://docs.github.com/rest/issues/comments."""
    api = _base(env.get("GITHUB_API_URL", "") or "https://api.github.com")
    repository = f"{api}/repos/{quote(env.get('GITHUB_REPOSITORY', ''), safe='/')}"
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": "2022-11-28",
        "User-Agent": "vllm-ci",
    }
    return Thread(
        comments=f"{repository}/issues/{number}/comments",
        one=lambda comment: f"{repository}/issues/comments/{comment}",
        headers=headers,
        change="PATCH",
        user=f"{api}/user",
        run=_number(env.get("GITHUB_RUN_ID", "")),
    )


def _gitlab(env: Mapping[str, str], number: str, token: str) -> Thread:
    """https://docs.gitlab.com/api/notes/#merge-requests."""
    api = _base(env.get("CI_API_V4_URL", "") or "https://gitlab.com/api/v4")
    notes = f"{api}/projects/{quote(env.get('CI_MERGE_REQUEST_PROJECT_ID', ''), safe='')}/merge_requests/{number}/notes"
    headers = {"PRIVATE-TOKEN": token, "User-Agent": "vllm-ci"}
    return Thread(
        comments=notes,
        one=lambda comment: f"{notes}/{comment}",
        headers=headers,
        change="PUT",
        user=f"{api}/user",
        run=_number(env.get("CI_PIPELINE_ID", "")),
    )


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0


def _base(url: str) -> str:
    """The address of an API; a token is sent over TLS only, or within the machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as error:
        raise NotPossible(f"{url} is no address of an API") from error
    if not host or parts.username or not (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)):
        raise NotPossible(f"the token is not sent to {url}: that is not https")
    return url.rstrip("/")


def _run_of(comment: Mapping[str, Any], marker: str) -> int:
    """Number of the run that wrote a comment of ours; 0 if it does not say that."""
    stamp = _STAMP.match(str(comment.get("body")), len(marker))
    return int(stamp[1]) if stamp else 0


def _ours(client: httpx.Client, found: Thread, marker: str) -> Mapping[str, Any] | None:
    """Our first comment; ``None`` if there is none.

    It is of a program with a token for the repository, as jobs have one, or of the user of the token. A comment of anybody else
    that begins with our marker stays as it is.
    """
    me: list[object] = []
    for comment in _all(client, found):
        text = comment.get("body")
        if isinstance(text, str) and text.startswith(marker):
            author = _mapping(comment.get("user") or comment.get("author"))
            if author.get("type") == "Bot":
                return comment
            me = me or [_me(client, found)]
            if me != [None] and author.get("id") == me[0]:
                return comment
    return None


def _me(client: httpx.Client, found: Thread) -> object:
    """Id of the user of the token; ``None`` for the token of a job of GitHub, which is of no user and may not ask."""
    answer = client.get(found.user)
    return None if answer.status_code == 403 else _mapping(_json(_checked(answer))).get("id")


def _all(client: httpx.Client, found: Thread) -> Iterator[Mapping[str, Any]]:
    """The comments, oldest first."""
    for page in range(1, _MOST_PAGES + 1):
        answer = _checked(client.get(found.comments, params={"per_page": _PAGE, "page": page, "sort": "asc"}))
        rows = _json(answer)
        if not isinstance(rows, list):
            raise NotPossible(f"{answer.url.host} did not answer with a list of comments")
        yield from map(_mapping, rows)
        if len(rows) < _PAGE:
            return


def _checked(answer: httpx.Response) -> httpx.Response:
    """The answer.

    Raises:
        NotPossible: It is no success.
    """
    if answer.is_success:
        return answer
    said = _mapping(_json(answer, strict=False))
    why = str(said.get("message") or said.get("error") or answer.reason_phrase or "no reason given")
    wait = answer.headers.get("retry-after", "")
    limited = answer.status_code == 429 or answer.headers.get("x-ratelimit-remaining") == "0"
    hint = {401: "; is the token still valid?", 403: "; may it write comments?", 404: "; may it read the repository?"}
    more = f"; the limit of requests is reached{f', retry after {wait} s' if wait.isdecimal() else ''}" if limited else ""
    raise NotPossible(f"{answer.url.host} answered {answer.status_code}: {why[:200]}{more or hint.get(answer.status_code, '')}")


def _json(answer: httpx.Response, *, strict: bool = True) -> Any:
    try:
        return answer.json()
    except (ValueError, RecursionError) as error:
        if strict:
            raise NotPossible(f"{answer.url.host} did not answer with JSON") from error
        return {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _address(answer: httpx.Response) -> str:
    return str(_mapping(_json(answer, strict=False)).get("html_url") or "")


def _short(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return text[:_LONGEST].rpartition("\n")[0] + "\n\nCut off here: the report has the rest.\n"
