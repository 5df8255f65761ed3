"""Patterns of branches and tags, as used in policies.

``main``, ``release/*`` (or ``refs/heads/...``) match branches, ``refs/tags/v*`` tags. ``*`` and ``?`` do not match a slash,
``**`` does, as in GitHub's branch filters: ``release/*`` does not match ``release/1/hotfix``.
"""

from __future__ import annotations

import re

BRANCHES, TAGS = "refs/heads/", "refs/tags/"
_REMOTES = "refs/remotes/"
_TOKEN = re.compile(r"\*\*|\*|\?|\[!?[^\]/]+\]|[^*?\[]")
# What git never allows in a name (git-check-ref-format(1)), except the characters that have a meaning in a pattern.
_NEVER = re.compile(r"[\x00-\x20\x7f~^:\\]|\.\.|@\{|//|/\.|\.lock(/|$)|^[./]|[./]$")


def problem(pattern: str) -> str:
    """Why a pattern cannot match any branch or tag; empty when it can."""
    if pattern.startswith("tag:"):
        return f"write tags as {TAGS}{pattern.removeprefix('tag:')}"
    if pattern.startswith("refs/") and not pattern.startswith((BRANCHES, TAGS)):
        return f"a pattern must match branches (main, {BRANCHES}main) or tags ({TAGS}v*)"
    name = pattern.removeprefix(BRANCHES).removeprefix(TAGS)
    if not name or _NEVER.search(name):
        return "git does not allow such a name"
    tokens = _TOKEN.findall(name)
    if "".join(tokens) != name or any(each.startswith("[") and "--" in each for each in tokens):
        return "a bracket is not closed, or is empty"
    try:
        _expression(name)
    except re.error as error:
        return f"the brackets are not valid: {error}"
    return ""


def matches(ref: str, pattern: str) -> bool:
    """Whether a ref matches a pattern.

    Older evidence has short refs, without the kind; they match patterns of branches and of tags.
    """
    kind = TAGS if pattern.startswith(TAGS) else BRANCHES
    wanted = pattern.removeprefix(kind)
    if ref.startswith("refs/") and not ref.startswith(kind):
        return False
    return bool(ref) and bool(_expression(wanted).fullmatch(ref.removeprefix(kind)))


def short(ref: str) -> str:
    """The short name: ``main`` for ``refs/heads/main``."""
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
