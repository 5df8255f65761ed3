"""Patterns of branches and tags, as policies have them.

``main``, ``release/*`` (or ``refs/heads/...``) mean branches, ``refs/tags/v*`` tags. ``*`` and ``?`` stay within one part of a
name, ``**`` goes over slashes, as in GitHub's branch filters: ``release/*`` is not ``release/1/hotfix``.
"""

from __future__ import annotations

import re

BRANCHES, TAGS = "refs/heads/", "refs/tags/"
_REMOTES = "refs/remotes/"
_TOKEN = re.compile(r"\*\*|\*|\?|\[!?[^\]/]+\]|[^*?\[]")
# What git allows in no name (git-check-ref-format(1)), apart from the characters that mean something in a pattern.
_NEVER = re.compile(r"[\x00-\x20\x7f~^:\\]|\.\.|@\{|//|/\.|\.lock(/|$)|^[./]|[./]$")


def problem(pattern: str) -> str:
    """Why a pattern can match no branch and no tag, empty when it can."""
    if pattern.startswith("tag:"):
        return f"tags are written {TAGS}{pattern.removeprefix('tag:')}"
    if pattern.startswith("refs/") and not pattern.startswith((BRANCHES, TAGS)):
        return f"a pattern is of branches (main, {BRANCHES}main) or of tags ({TAGS}v*)"
    name = pattern.removeprefix(BRANCHES).removeprefix(TAGS)
    if not name or _NEVER.search(name):
        return "git allows no such name"
    tokens = _TOKEN.findall(name)
    if "".join(tokens) != name or any(each.startswith("[") and "--" in each for each in tokens):
        return "a bracket is not closed, or is empty"
    try:
        _expression(name)
    except re.error as error:
        return f"the brackets are not valid: {error}"
    return ""


def matches(ref: str, pattern: str) -> bool:
    """Whether a ref is one that a pattern means.

    A short ref is one of older evidence, which did not record whether it was a branch or a tag: it counts for both.
    """
    kind = TAGS if pattern.startswith(TAGS) else BRANCHES
    wanted = pattern.removeprefix(kind)
    if ref.startswith("refs/") and not ref.startswith(kind):
        return False
    return bool(ref) and bool(_expression(wanted).fullmatch(ref.removeprefix(kind)))


def short(ref: str) -> str:
    """The name as people write it: ``refs/heads/main`` is ``main``."""
    prefix = next((each for each in (BRANCHES, TAGS, _REMOTES) if ref.startswith(each)), "")
    return ref.removeprefix(prefix)


def _expression(pattern: str) -> re.Pattern[str]:
    parts = []
    for each in _TOKEN.findall(pattern):
        if each == "**":
            parts.append(".*")
        elif each == "*":
            parts.append("[^/]*")
        elif each == "?":
            parts.append("[^/]")
        elif len(each) > 1:
            body = each[1:-1]
            negated, body = body.startswith("!"), body.removeprefix("!")
            parts.append(f"(?!/)[{'^' if negated else ''}{re.escape(body).replace(chr(92) + '-', '-')}]")
        else:
            parts.append(re.escape(each))
    return re.compile("".join(parts), re.DOTALL)
