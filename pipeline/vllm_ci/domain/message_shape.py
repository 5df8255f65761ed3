"""The shape of a message: what stays the same when the same thing happens again.

Numbers, times, addresses, random words, ids and the parameters of a case vary; everything else is fixed. Numbers that say what
happened (status codes of HTTP, exit codes, ``errno``, versions of a protocol) are fixed, too: 400 and 500 are different causes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

_LONGEST = 2000
_MOST_VALUES = 2
_STATUSES = {str(status.value) for status in HTTPStatus} | {str(code) for code in range(400, 600)}

_FIXED = r"""
    HTTP/\d(?:\.\d)? | \bTLS\s?v?\d\.\d | \bSSLv\d
  | (?i:\berrno\W{1,3}\d+ | \b(?:code|status|signal)\b['"]?(?:\ (?:is|was|of))?[\s:=(]{1,3}\d+)
"""
_VARIES = r"""
    \d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?
  | /v1/(?:chat/)?completions\b
  | \bcanary-\w+
  | \b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b
  | \b(?:chatcmpl|cmpl|call|req|resp|msg|embd|chatcmpl-tool)[-_](?=\w*\d)[\w-]{6,}
  | \b0x[0-9a-fA-F]+\b
  | \b(?=[a-f]*+[0-9])(?=[0-9]*+[a-f])[0-9a-f]{6,}+\b | \b(?=[A-F]*+[0-9])(?=[0-9]*+[A-F])[0-9A-F]{6,}+\b
"""
_NUMBER = r"(?<![\w.])[-+]?\d+(?:[.,:]\d+)*+(?:[eE][-+]?\d+)?(?:(?:ns|us|ms|s|min|h|[kKMG]i?B|%)(?!\w))?(?![\w])"
# A number in front of one of these, or after one of those, counts or measures something and is no status code.
_COUNTED = re.compile(
    r"""\s?(?: [num]?s\b | min\b | h\b | sec | minute | hour | day | [kKMG]i?B\b | % | byte | char | token | chunk | event
        | stream | request | case | word | line | time | choice | entr | item | message | number | value | connection | client
        | prompt | answer | concurrent | sequential | different | of\ )""",
    re.VERBOSE,
)
_MEASURED = re.compile(r"\b(?:of|within|than|most|least|port|line|about|number|every|first|last)\s$")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A message as fixed text with values between.

    Attributes:
        fixed: The fixed parts: one more than there are values.
        values: What varies.
    """

    fixed: tuple[str, ...]
    values: tuple[str, ...]

    @property
    def text(self) -> str:
        """The fixed parts, with a mark for every value: equal for messages of the same shape."""
        return "\0".join(self.fixed)


def shape_of(message: str, parameters: Iterable[str] = ()) -> Shape:
    """The shape of the first 2000 characters of a message.

    Args:
        message: One line.
        parameters: Ids of the parameters of the case that said it; they vary as well.
    """
    fixed, values, end = [], [], 0
    text = message[:_LONGEST]
    for match in _pattern(word for word in parameters if word in text).finditer(text):
        if match.lastgroup != "fixed" and not _says_what_happened(match, text):
            fixed.append(text[end : match.start()])
            values.append(match[0])
            end = match.end()
    return Shape(fixed=(*fixed, text[end:]), values=tuple(values))


def common(shapes: Sequence[Shape]) -> str:
    """One sentence for messages of the same shape: values that differ are ``…``, two names are given both."""
    parts = [shapes[0].fixed[0]]
    for place, after in enumerate(shapes[0].fixed[1:]):
        parts += [_common({shape.values[place] for shape in shapes}), after]
    return "".join(parts)


def _common(values: set[str]) -> str:
    if len(values) == 1:
        return next(iter(values))
    names = sorted(values)
    numbers = any(character.isdigit() for name in names for character in name.removeprefix("/v1"))
    return "…" if numbers or len(names) > _MOST_VALUES else " or ".join(names)


def _says_what_happened(match: re.Match[str], text: str) -> bool:
    """Whether a number is a status code of HTTP rather than a count or a time."""
    if match.lastgroup != "number" or match[0] not in _STATUSES:
        return False
    counted = _COUNTED.match(text, match.end()) or _MEASURED.search(text[max(match.start() - 8, 0) : match.start()])
    return counted is None


def _pattern(parameters: Iterable[str]) -> re.Pattern[str]:
    """Pattern of what is fixed and what varies; :mod:`re` keeps the compiled ones."""
    words = sorted({re.escape(word) for word in parameters if len(word) > 1 and not word.isdigit()}, key=len, reverse=True)
    given = rf"| (?<![\w-])(?:{'|'.join(words)})(?![\w-])" if words else ""
    return re.compile(rf"(?P<fixed>{_FIXED}) | (?P<varies>{_VARIES} {given}) | (?P<number>{_NUMBER})", re.VERBOSE)
