"""Why a git server did not take a push, and what to do about it (git-push(1), PORCELAIN OUTPUT)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vllm_ci.domain.errors import ErroredError
from vllm_ci.system.vcs import GitError

# Reasons that come from two writers meeting: the branch moved, or moves just now.
_MEETING = re.compile(
    r"fetch first|non-fast-forward|stale info|incorrect old value|failed to (update|lock)|cannot lock|unable to lock|lock file"
    r"|reference already exists|remote ref updated"
)
_STATUS = re.compile(r"^!\t[^\t]*\t\[(?P<kind>[^\]]*)\](?: \((?P<reason>.*)\))?", re.MULTILINE)
_REMOTE = re.compile(r"^remote: ?(.*?)\s*$", re.MULTILINE)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_TAKES_PUSHES = "allow the releasing account to push to that branch, or name another one under release.ledger.branch"

# Messages of servers and remedies; the first match counts. Git has no status that distinguishes them.
_REMEDIES = (
    (re.compile(r"(?i)quota|no space left|disk full|exceeds? .*(limit|size)|size limit"), "make room in that repository"),
    (re.compile(r"(?i)protected|not allowed to push|branch policy|GH006|GH013"), _TAKES_PUSHES),
    (re.compile(r"(?i)archived|read[- ]only|deny updating"), "name a repository under release.ledger that takes pushes"),
)
_AUTHENTICATION = re.compile(
    r"(?i)authentication failed|could not read (username|password)|terminal prompts disabled|permission denied"
    r"|returned error: 40[13]|access denied|host key verification failed|not authorized|unauthorized|invalid credentials"
)
_UNREACHABLE = re.compile(
    r"(?i)could not resolve|connection (refused|timed out|reset)|failed to connect|couldn't connect|network is unreachable"
    r"|no route to host|operation timed out|returned error: 5\d\d|early eof|hung up unexpectedly|timed out"
)


@dataclass(frozen=True, kw_only=True)
class PushRefusal:
    """A server that answered, and did not take the push.

    Attributes:
        reason: In git's words.
        words: The server's own.
        moved: The branch was changed by another writer.
        meeting: Another writer is at it.
    """

    reason: str
    words: str
    moved: bool
    meeting: bool

    @property
    def again(self) -> bool:
        """Trying again may help."""
        return self.moved or self.meeting

    def error(self, name: str) -> ErroredError:
        """For a branch that has not moved."""
        said = "; ".join(each for each in (self.reason, f"the server says: {self.words}" if self.words else "") if each)
        text = f"{self.reason} {self.words}"
        remedy = next((remedy for pattern, remedy in _REMEDIES if pattern.search(text)), "")
        hook = (
            "ask the server's administrator what its hooks require, or name another repository or branch under release.ledger"
        )
        return ErroredError(
            f"the ledger's server refused the push to {name}",
            why=said or "it gives no reason",
            remedy=f"nothing was recorded: {remedy or hook}",
        )


def refusal_of(error: GitError, *, moved: bool) -> PushRefusal | None:
    """The server's refusal of a push; nothing when no server answered.

    Args:
        error: Of ``git push --porcelain``.
        moved: The branch was found elsewhere than where the push started from.
    """
    status = _STATUS.search(error.output)
    if status is None and not moved:
        return None
    reason = (status["reason"] or status["kind"]) if status else ""
    return PushRefusal(reason=reason, words=_words(error.why), moved=moved, meeting=bool(_MEETING.search(reason)))


def out_of_reach(name: str, error: GitError) -> ErroredError:
    """The error for a server that could not be reached: credentials, network, or another reason."""
    said = _words(error.why)
    text = f"{error.why} {said}"
    if _AUTHENTICATION.search(text):
        message, remedy = (
            f"the ledger cannot be reached: {name}: access denied",
            ("check your git credentials (git's own, or VLLM_CI_GIT_USERNAME and VLLM_CI_GIT_PASSWORD) and release.ledger"),
        )
    elif _UNREACHABLE.search(text):
        message, remedy = f"the ledger cannot be reached: {name}: no answer", "check the network and release.ledger, try again"
    else:
        message, remedy = f"the ledger cannot be reached: {name}", "check release.ledger and your git credentials"
    return ErroredError(message, why=error.why, remedy=remedy)


def _words(text: str) -> str:
    """The lines that the server sent, as one."""
    lines = [_ANSI.sub("", line) for line in _REMOTE.findall(text)]
    return " ".join(
        line.strip() for line in lines if line.strip() and not line.startswith(("error: hook declined", "Resolving"))
    )
