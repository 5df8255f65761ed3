"""Authentication challenges (RFC 9110, section 11.3): ``WWW-Authenticate``, several to a header and several headers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

# RFC 9110, section 5.6.2: a token.
_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_SPACES = re.compile(r"[ \t]*")
_SEPARATORS = re.compile(r"[ \t,]*")
_SCHEME = re.compile(_WORD)
# token68 ends where a challenge ends: at a comma or at the end of the header.
_TOKEN68 = re.compile(r"([A-Za-z0-9\-._~+/]+=*)[ \t]*(?=,|$)")
_PARAMETER = re.compile(rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """What a server asks for.

    Attributes:
        scheme: In lower case.
        token68: Its one value, where it has that instead of parameters.
        parameters: By name in lower case; of a name that comes twice the first value counts.
    """

    scheme: str
    token68: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """All challenges of an answer, in its order. What does not follow the grammar ends its header, and is left out."""
    return tuple(challenge for header in headers for challenge in _challenges(header))


def _challenges(header: str) -> Iterator[Challenge]:
    position = _after(_SEPARATORS, header, 0)
    while scheme := _SCHEME.match(header, position):
        begin = _after(_SPACES, header, scheme.end())
        if begin > scheme.end() and (value := _TOKEN68.match(header, begin)):
            yield Challenge(scheme=scheme[0].lower(), token68=value[1])
            position = value.end()
        else:
            parameters, position = _parameters(header, begin)
            yield Challenge(scheme=scheme[0].lower(), parameters=parameters)
        following = _after(_SEPARATORS, header, position)
        if "," not in header[position:following]:
            return
        position = following


def _parameters(header: str, position: int) -> tuple[dict[str, str], int]:
    """Parameters from a position on, and where they end: at what is no parameter, which is the next challenge's scheme."""
    found: dict[str, str] = {}
    end = position
    while match := _PARAMETER.match(header, position):
        name, quoted, bare = match.groups()
        found.setdefault(name.lower(), bare if quoted is None else _ESCAPED.sub(r"\1", quoted))
        end = match.end()
        position = _after(_SEPARATORS, header, end)
        if "," not in header[end:position]:
            break
    return found, end


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position
