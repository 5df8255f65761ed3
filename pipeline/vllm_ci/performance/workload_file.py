"""Reads a workload file. Everything is checked before the first request is sent; a wrong line is refused with its number."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from vllm_ci.domain.errors import UsageError
from vllm_ci.performance import entries
from vllm_ci.performance.entries import Entry, WrongError
from vllm_ci.performance.recorded import Recorded, Traced, Written

LARGEST_FILE = 512 << 20
LARGEST_LINE = 8 << 20
MOST_REQUESTS = 1_000_000
_FORMS = (
    "requests, one JSON object a line (JSONL), a ShareGPT array, or a trace with arrival time, prompt and output tokens "
    "(CSV, JSONL)"
)


def load(path: Path) -> Recorded:
    """Read a workload file.

    Raises:
        UsageError: It cannot be read, or a line is wrong.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            _refuse(path, 0, f"it is larger than {LARGEST_FILE >> 20} MiB")
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", remedy="check --workload-file") from error
    form, lines = _form(path, raw)
    try:
        found = _read(lines)
    except _LineError as error:
        _refuse(path, error.line, error.text)
    if not found:
        _refuse(path, 0, "it has no requests")
    return Recorded(
        name=path.name,
        digest=hashlib.sha256(raw).hexdigest(),
        form=form,
        written=tuple(each for each in found if isinstance(each, Written)),
        traced=tuple(each for each in found if isinstance(each, Traced)),
        timed=found[0].at_s is not None,
    )


def _read(lines: Iterator[tuple[int, list[Entry]]]) -> list[Entry]:
    found: list[Entry] = []
    for number, new in lines:
        found += new
        wrong = f"more than {MOST_REQUESTS} requests" if len(found) > MOST_REQUESTS else _disorder(found, len(new))
        if wrong:
            raise _LineError(number, wrong)
    return found


def _refuse(path: Path, line: int, what: str) -> NoReturn:
    place = f"{path}:{line}" if line else str(path)
    raise UsageError(f"{place}: {what}", why=f"a workload file has {_FORMS}", remedy="correct the file")


class _LineError(Exception):
    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line, self.text = line, text


def _form(path: Path, raw: bytes) -> tuple[str, Iterator[tuple[int, list[Entry]]]]:
    """What the file holds, and its entries by line."""
    start = raw.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start == b"[":
        return "ShareGPT conversations", _array(raw)
    if start == b"{":
        return "requests (JSONL)", _each(raw, _json_line)
    return f"trace ({path.suffix.lstrip('.') or 'csv'})", _table(raw)


def _lines(raw: bytes) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers."""
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if len(line) > LARGEST_LINE:
            raise _LineError(number, f"the line is longer than {LARGEST_LINE >> 20} MiB")
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise _LineError(number, f"not UTF-8 at byte {error.start + 1}") from error
        if text:
            yield number, text


def _each(raw: bytes, parse: Callable[[str], list[Entry]]) -> Iterator[tuple[int, list[Entry]]]:
    for number, text in _lines(raw):
        try:
            yield number, parse(text)
        except WrongError as error:
            raise _LineError(number, str(error)) from error


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise WrongError(f"not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise WrongError(f"not JSON that can be read: {str(error)[:100]}") from error


def _no_constant(name: str) -> NoReturn:
    raise WrongError(f"{name} is not JSON")


def _json_line(text: str) -> list[Entry]:
    found = _parsed(text)
    if not isinstance(found, dict):
        raise WrongError(f"a JSON object is needed, not {type(found).__name__}")
    if isinstance(found.get("body"), dict) and "messages" not in found:
        found = {**found["body"], **{key: found[key] for key in entries.ARRIVAL if key in found}}  # OpenAI's batch format
    if "conversations" in found:
        return entries.conversation(found)
    if "messages" in found or "prompt" in found:
        return [entries.request(found)]
    return [entries.traced({str(key).lower(): value for key, value in found.items()}, milliseconds="hash_ids" in found)]


def _array(raw: bytes) -> Iterator[tuple[int, list[Entry]]]:
    """Items of one JSON array; an item's line is that on which it starts."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _LineError(raw.count(b"\n", 0, error.start) + 1, "not UTF-8") from error
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    place, line, counted = text.index("[") + 1, 1, 0
    while True:
        place = _skipped(text, place)
        line, counted = line + text.count("\n", counted, place), place
        if text[place : place + 1] == "]":
            if text[place + 1 :].strip():
                raise _LineError(line, "text after the end of the array")
            return
        try:
            item, place = decoder.raw_decode(text, place)
            yield line, entries.conversation(item)
        except json.JSONDecodeError as error:
            raise _LineError(error.lineno, f"not JSON: {error.msg} at column {error.colno}") from error
        except (WrongError, ValueError, RecursionError) as error:
            raise _LineError(line, str(error)[:200]) from error
        place = _skipped(text, place)
        if text[place : place + 1] == ",":
            place += 1
        elif text[place : place + 1] != "]":
            raise _LineError(text.count("\n", 0, place) + 1, "not JSON: `,` or `]` is needed")


def _skipped(text: str, place: int) -> int:
    while text[place : place + 1] in {" ", "\n", "\r", "\t"}:
        place += 1
    return place


def _table(raw: bytes) -> Iterator[tuple[int, list[Entry]]]:
    """Rows of a CSV trace."""
    lines = _lines(raw)
    first = next(lines, None)
    if first is None:
        return
    names = [name.strip().lower() for name in next(csv.reader([first[1]]), [])]
    for known, what in ((entries.PROMPT, "prompt tokens"), (entries.OUTPUT, "output tokens")):
        if not set(known) & set(names):
            raise _LineError(first[0], f"no column for {what} (one of {', '.join(known)})")
    for number, text in lines:
        try:
            yield number, [_row(names, text)]
        except (WrongError, csv.Error) as error:
            raise _LineError(number, str(error)) from error


def _row(names: list[str], text: str) -> Traced:
    cells = next(csv.reader([text], strict=True))
    if len(cells) != len(names):
        raise WrongError(f"{len(cells)} columns instead of {len(names)}")
    return entries.traced(dict(zip(names, cells, strict=True)), milliseconds=False)


def _disorder(found: list[Entry], new: int) -> str:
    """Times must not descend, and all requests are of one kind; empty if so."""
    for late in range(max(len(found) - new, 1), len(found)):
        before, after = found[late - 1].at_s, found[late].at_s
        if (before is None) != (after is None):
            return "some requests have an arrival time and some have none"
        if before is not None and after is not None and after < before:
            return f"it arrives {before - after:g} s before the request above it"
        if isinstance(found[late - 1], Written) != isinstance(found[late], Written):
            return "some requests have text and some only lengths"
    return ""
