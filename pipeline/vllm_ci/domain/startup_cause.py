"""Why a server did not start, from its log alone.

vLLM is several processes that write into one log, each line with a prefix (``(EngineCore pid=12)``), and when one fails the
others fail after it: the last lines never show the cause. The cause is the first exception of the innermost process; in a chain
of exceptions, the one that is in the table of known causes, or else the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vllm_ci.domain.startup_known import KNOWN, Known

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PROCESS = re.compile(r"^\((?P<name>[A-Za-z][\w .:-]*?),? pid=(?P<pid>\d+)(?:, ip=[^)]*)?\) ?")
_RECORD = re.compile(r"^(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d (?:\[[^\]]*\] ?)?")
_CHILD = re.compile(r"^Process (?P<name>[\w.-]+):$")
_BEGIN = "Traceback (most recent call last):"
_EXCEPTION = re.compile(r"^(?P<type>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?$")
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
_ARGUMENTS = re.compile(r"^\S+: error: .+")
# These follow from another failure, or from a request to end the process.
_FOLLOWS = re.compile(
    r"[Ss]ee (?:the )?(?:root cause|stack trace|error|logs?)\b.{0,40}\babove|[Ii]nitialization failed due to an exception|"
    r"[Ee]ngine core initialization failed|[Ff]ailed core proc|^(?:SystemExit|KeyboardInterrupt|asyncio\.\w*CancelledError|"
    r"CancelledError|EOFError|BrokenPipeError|ConnectionResetError|EngineDeadError|[\w.]*EngineDeadError)\b|died unexpectedly"
)
# Deeper processes are started by the ones above them: a worker by the engine's core, that by the server of the API.
_DEPTHS = (("worker", 3), ("rank", 3), ("enginecore", 2), ("engine_core", 2), ("engine", 2))
_LONGEST = 600
_MESSAGE_LINES = 12
_LAST_LINES = 40


@dataclass(frozen=True, kw_only=True)
class StartupCause:
    """Why a server did not start.

    Attributes:
        line: The cause, as one line of the server's log.
        explanation: What it means; empty when it is not a known cause.
        change: What to change; empty when it is not a known cause.
        process: The server's process that wrote it (``EngineCore``); empty when the log does not show it.
    """

    line: str
    explanation: str = ""
    change: str = ""
    process: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a log of vLLM.

    Attributes:
        process: The process that its prefix names (``EngineCore``); empty if it has none.
        level: Level of the log record; empty if it has no head of one.
        text: The rest, without colours.
    """

    process: str
    level: str
    text: str


@dataclass(kw_only=True)
class _Raised:
    """One exception: the line with its type, and the rest of its message."""

    text: str
    at: int


@dataclass(kw_only=True)
class _Chain:
    """Exceptions that led to each other, the first one first."""

    process: str
    level: str
    at: int
    raised: list[_Raised] = field(default_factory=list)


def startup_cause(log: str, *, exit_code: int | None = None) -> StartupCause:
    """The cause of a server's failure to start.

    Args:
        log: The full log of all its processes.
        exit_code: Exit code of the server's main process, 128 + N for signal N; ``None`` when it is still running.

    Returns:
        The most likely cause; how the process ended when the log does not contain one.
    """
    lines = list(_lines(log))
    chains = [chain for chain in _chains(lines) if chain.raised]
    # A traceback logged as a warning or less did not stop the server.
    serious = [chain for chain in chains if chain.level not in ("DEBUG", "INFO", "WARNING")]
    own = sorted(serious, key=lambda chain: (-_depth(chain.process), chain.at))
    return (
        _arguments(lines)
        or _known_in(own, follows=False)
        or _unknown(own)
        or _known_in(own, follows=True)
        or _said(lines)
        or _ended(lines, exit_code)
    )


def _lines(log: str) -> Iterator[Line]:
    yield from map(line_of, log.splitlines())


def line_of(raw: str) -> Line:
    """The parts of one line."""
    text = _COLOUR.sub("", raw).rstrip()
    process = ""
    while found := _PROCESS.match(text):  # Ray puts its own prefix before vLLM's
        process, text = found["name"], text[found.end() :]
    record = _RECORD.match(text)
    return Line(process=process, level=record["level"] if record else "", text=text[record.end() :] if record else text)


def is_between(text: str) -> bool:
    """Whether a line of a traceback is neither an exception nor a part of its message."""
    return not text or text[0].isspace() or text == _BEGIN or text.startswith(_CHAINED)


def _chains(lines: Sequence[Line]) -> list[_Chain]:
    """Chains of tracebacks; lines of other processes in between do not break a chain."""
    found: list[_Chain] = []
    streams: dict[str, list[tuple[int, Line]]] = {}
    child = ""
    for number, line in enumerate(lines):
        if announced := _CHILD.match(line.text):
            child = announced["name"]
        elif line.level:
            child = ""
        key = line.process or (child if not line.level else "")
        streams.setdefault(key, []).append((number, line))
    for process, stream in streams.items():
        found += _in_stream(process, stream)
    return found


def _in_stream(process: str, stream: Sequence[tuple[int, Line]]) -> Iterator[_Chain]:
    chain: _Chain | None = None
    linked = False
    position = 0
    while position < len(stream):
        number, line = stream[position]
        position += 1
        if line.text.startswith(_CHAINED):
            linked = True
        if not line.text.lstrip(" |+-").startswith(_BEGIN):
            continue
        margin = line.text.index(_BEGIN)
        position, raised = _raised(stream, position, margin)
        if chain is None or not linked:
            if chain is not None:
                yield chain
            chain = _Chain(process=process, level=line.level, at=number)
        chain.raised += [raised] if raised else []
        linked = False
    if chain is not None:
        yield chain


def _raised(stream: Sequence[tuple[int, Line]], position: int, margin: int) -> tuple[int, _Raised | None]:
    """The exception at the end of a traceback, and the position after it."""
    while position < len(stream):
        number, line = stream[position]
        text = line.text[margin:]
        if text.strip(" |") and not text.startswith((" ", "\t")):
            break
        position += 1
    else:
        return position, None
    if not _EXCEPTION.match(text):
        return position, None
    level, said = line.level, [text]
    position += 1
    while position < len(stream) and len(said) < _MESSAGE_LINES:
        after = stream[position][1]
        more = after.text[margin:]
        if after.level != level or not more.strip() or more.startswith((*_CHAINED, _BEGIN)) or _CHILD.match(more):
            break
        said.append(more.strip())
        position += 1
    return position, _Raised(text="\n".join(said), at=number)


def _depth(process: str) -> int:
    name = process.lower().replace(" ", "")
    return next((depth for part, depth in _DEPTHS if part in name), 1)


def _known_in(chains: Sequence[_Chain], *, follows: bool) -> StartupCause | None:
    """The first known exception of the innermost process; in a chain, the one that is first in the table of known causes."""
    for chain in chains:
        texts = [raised.text for raised in chain.raised if bool(_FOLLOWS.search(raised.text)) is follows]
        told = [(known, text) for text in texts if (known := _known(text))]
        if told:
            known, text = min(told, key=lambda each: KNOWN.index(each[0][0]))
            return _cause(text, known, chain.process)
    return None


def _unknown(chains: Sequence[_Chain]) -> StartupCause | None:
    """The first exception of the innermost process, which is not in the table of known causes."""
    for chain in chains:
        for raised in chain.raised:
            if not _FOLLOWS.search(raised.text):
                return _cause(raised.text, None, chain.process)
    return None


def _arguments(lines: Sequence[Line]) -> StartupCause | None:
    """The error message of argparse, which ends the process without an exception."""
    for line in reversed(lines[-_LAST_LINES:]):
        if not line.level and _ARGUMENTS.match(line.text):
            return _cause(line.text, _known(line.text), line.process)
    return None


def _said(lines: Sequence[Line]) -> StartupCause | None:
    """A log line that is not an exception: written by the dynamic loader, by C++, or logged as an error."""
    near = len(lines) - _LAST_LINES
    candidates = [
        line
        for number, line in enumerate(lines)
        if line.level in ("ERROR", "CRITICAL") or (not line.level and line.text and number >= near)
    ]
    for line in candidates:
        if (known := _known(line.text)) and not line.text.startswith(("usage:", " ", "[")):
            return _cause(line.text, known, line.process)
    errors = [line for line in candidates if line.level in ("ERROR", "CRITICAL")]
    return _cause(errors[0].text, None, errors[0].process) if errors else None


def _ended(lines: Sequence[Line], exit_code: int | None) -> StartupCause:
    """How the process ended, and its last line."""
    last = next((line.text for line in reversed(lines) if line.text.strip()), "")
    if exit_code is None:
        return StartupCause(line=_short(last or "it wrote nothing"))
    ended = f"exit code {exit_code}"
    if 128 < exit_code < 160:
        ended = f"ended by signal {exit_code - 128} (exit code {exit_code})"
    known = _known(f"exit code {exit_code}")
    line = f"{ended}, and its log is empty" if not last else f"{ended}; its last line: {last}"
    return _cause(line, known, "")


def _known(text: str) -> tuple[Known, re.Match[str]] | None:
    for known in KNOWN:
        if found := re.search(known.pattern, text, re.MULTILINE):
            return known, found
    return None


def _cause(text: str, known: tuple[Known, re.Match[str]] | None, process: str) -> StartupCause:
    line = _short(_one_line(text))
    if known is None:
        return StartupCause(line=line, process=process)
    values = {name: value or "" for name, value in known[1].groupdict().items()}
    return StartupCause(
        line=line,
        explanation=known[0].explanation,
        change=known[0].change.format(**values) if values else known[0].change,
        process=process,
    )


def _one_line(text: str) -> str:
    """An exception with its message in one line; for pydantic's errors, the invalid field and the reason."""
    head, *rest = text.splitlines()
    kind, colon, message = head.partition(": ")
    if re.fullmatch(r"[\w.]+\.[A-Z]\w*", kind):
        kind = kind.rpartition(".")[2]
    rest = [re.sub(r"\s*\[type=.*", "", each) for each in rest if "errors.pydantic.dev" not in each]
    if rest and (refused := re.fullmatch(r"\d+ validation errors? for (\w+)", message)):
        message = f"{refused[1]}:"
    said = " ".join(each for each in (message, *rest) if each).replace("Value error, ", "")
    return re.sub(r"\s+", " ", f"{kind}{colon}{said}").strip()


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
