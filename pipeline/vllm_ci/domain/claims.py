"""What each case says about the cause of its result: the cause that its suite recorded, its findings, or its message."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vllm_ci.domain.message_shape import Shape, shape_of
from vllm_ci.domain.plain import excerpt, one_line
from vllm_ci.domain.report import Case, CaseStatus
from vllm_ci.domain.stage import SEVERITIES

_FINDING = re.compile(rf"\[({'|'.join(SEVERITIES)})\] (.+?): (.*)", re.DOTALL)
_REQUEST = re.compile(r"\b(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|TRACE) (/[\w./-]*[\w/-]|/)")
_EXCERPT = 4000
_SURFACES = ("chat", "completions")
# A message that ends with the whole message of other cases says in which circumstances the same thing happened.
_LEAST_NESTED = 20


def exchange_of(case: Case) -> dict[str, str]:
    """Beginnings of ``request`` and ``response`` that a case recorded; none if its message is about another request."""
    given = case.properties.get("exchange")
    if not isinstance(given, Mapping):
        return {}
    found = {name: excerpt(str(given.get(name) or ""), _EXCERPT) for name in ("request", "response")}
    named, recorded = _REQUEST.findall(case.message), _REQUEST.match(found["request"])
    if named and (recorded is None or recorded.groups() not in named):  # such as the last request of a case about streams
        return {}
    return {name: text for name, text in found.items() if text}


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A case that did not pass, and its stage."""

    stage: str
    case: Case


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A case, and one cause of its result.

    Attributes:
        bad: The case.
        id: Of the cause.
        shape: What the case says of it.
        severity: Empty if unknown.
        rule: Empty if unknown.
        nested: The message says more than the cause.
    """

    bad: Bad
    id: str
    shape: Shape
    severity: str = ""
    rule: str = ""
    nested: bool = False


def claims(bad: Sequence[Bad]) -> list[Claim]:
    """One claim for each case; one for each failing finding of a case with findings."""
    shared = _shared(bad)
    recorded = {place: found for place, each in enumerate(bad) if (found := _recorded(each) or _findings(each, shared))}
    said = {place: _Said.of(each) for place, each in enumerate(bad)}
    by_message = iter(_by_message([said[place] for place in said if place not in recorded], _known(recorded, said)))
    return [claim for place in said for claim in (recorded.get(place) or [next(by_message)])]


def _recorded(bad: Bad) -> list[Claim]:
    """The cause that the suite recorded; a finding ``<id>:<what>`` of the case says more precisely which one it is."""
    cause = bad.case.properties.get("cause")
    if not isinstance(cause, Mapping) or not (name := one_line(str(cause.get("id") or ""), 200)):
        return []
    found = bad.case.properties.get("findings")
    ids = [each["id"] for given in (found if isinstance(found, list | tuple) else ()) if (each := _finding(given))]
    name = min((each for each in ids if each.startswith(f"{name}:")), default=name)
    title = one_line(str(cause.get("title") or bad.case.message or name), 300)
    severity, rule = str(cause.get("severity") or ""), one_line(str(cause.get("rule") or ""), 1000)
    return [Claim(bad=bad, id=name, shape=shape_of(title), severity=severity if severity in SEVERITIES else "", rule=rule)]


def _findings(bad: Bad, shared: Collection[str]) -> list[Claim]:
    """Claims for the findings that made the case fail; one for all that share a cause, which is titled if it has several."""
    found: dict[str, Claim] = {}
    for name, each in sorted(_failing(bad.case).items()):
        cause, title = each["cause"] or name, f"{name}: {each['message']}"
        claim = Claim(
            bad=bad,
            id=cause,
            shape=shape_of(each["title"] if cause in shared and each["title"] else title),
            severity=each["severity"],
            rule=each["rule"],
        )
        if cause not in found or SEVERITIES.index(claim.severity) > SEVERITIES.index(found[cause].severity):
            found[cause] = claim
    return [found[cause] for cause in sorted(found)]


def _shared(bad: Sequence[Bad]) -> set[str]:
    """Ids of causes that several findings share."""
    pairs = {(each["cause"], name) for one in bad for name, each in _failing(one.case).items() if each["cause"]}
    counts = Counter(cause for cause, _ in pairs)
    return {cause for cause, count in counts.items() if count > 1}


def _failing(case: Case) -> dict[str, dict[str, str]]:
    """The findings that made the case fail, by id: not accepted, and not below the lowest severity that its message names."""
    given, accepted = case.properties.get("findings"), case.properties.get("accepted")
    if case.status is not CaseStatus.FAILED or not isinstance(given, list | tuple):
        return {}
    accepted = {str(each) for each in accepted} if isinstance(accepted, list | tuple) else set()
    listed = [finding for each in given if (finding := _finding(each)) and finding["id"] not in accepted]
    text = f"{case.message}\n{case.details}"
    named = [SEVERITIES.index(each["severity"]) for each in listed if f"[{each['severity']}] {each['id']}: " in text]
    return {each["id"]: each for each in listed if named and SEVERITIES.index(each["severity"]) >= min(named)}


def _finding(given: object) -> dict[str, str] | None:
    """A finding as suites record it: a mapping, or one line of text."""
    if isinstance(given, Mapping):
        found = {name: one_line(str(given.get(name) or ""), 1000) for name in ("id", "severity", "message", "rule")}
        cause = given.get("cause")
        for key, name in (("cause", "id"), ("title", "title")):
            found[key] = one_line(str(cause.get(name) or ""), 300) if isinstance(cause, Mapping) else ""
        return found if found["id"] and found["severity"] in SEVERITIES else None
    match = _FINDING.fullmatch(str(given))
    if match is None:
        return None
    return {
        "id": one_line(match[2], 1000),
        "severity": match[1],
        "message": one_line(match[3], 1000),
        "rule": "",
        "cause": "",
        "title": "",
    }


@dataclass(frozen=True, kw_only=True)
class _Said:
    """What a case said.

    Attributes:
        bad: The case.
        about: What else must be equal for two messages to mean the same.
        exact: Shape of the message.
        loose: The same, with the parameters of the case as values.
    """

    bad: Bad
    about: str
    exact: Shape
    loose: Shape

    @classmethod
    def of(cls, bad: Bad) -> _Said:
        case = bad.case
        text = case.message.strip() or next((line for line in reversed(case.details.splitlines()) if line.strip()), "")
        first, _, rest = text.partition("\n")
        first = " ".join(first.split())
        function, _, parameters = case.name.partition("[")
        about = "inconclusive" if case.status is CaseStatus.INCONCLUSIVE else ""
        if not first or first.startswith("assert "):  # says nothing without the line in which it stands
            about += f"\0{bad.stage}\0{function}"
            first = f"{function.rpartition('::')[2]}: {first or 'no message'}"
        rest = first[2000:] + rest
        words = _words(parameters.removesuffix("]"))
        return cls(bad=bad, about=f"{about}\0{shape_of(rest).text}", exact=shape_of(first), loose=shape_of(first, words))

    @property
    def key(self) -> str:
        return f"{self.about}\0{self.exact.text}"


def _words(parameters: str) -> list[str]:
    """Parameters as they may appear in a message: ``chat-accents`` is what a case about accents has for one of two surfaces."""
    pieces = parameters.split("-")
    others = "-".join(piece for piece in pieces if piece not in _SURFACES)
    return [parameters, others, *(each for each in _SURFACES if each in pieces)]


def _known(recorded: Mapping[int, list[Claim]], said: Mapping[int, _Said]) -> dict[str, set[str]]:
    """Ids of recorded causes by the messages of their cases."""
    known: dict[str, set[str]] = {}
    for place, found in recorded.items():
        known.setdefault(said[place].key, set()).update(claim.id for claim in found)
    return known


def _by_message(said: Sequence[_Said], known: Mapping[str, set[str]]) -> Iterator[Claim]:
    """A claim for each of them, in the same order."""
    shapes = _shapes(said)
    texts = {(each.about, shape.text) for each, shape in zip(said, shapes, strict=True)}
    roots = {(about, text): _root(about, text, texts) for about, text in texts}
    ids: dict[tuple[str, str], set[str]] = {}
    for each, shape in zip(said, shapes, strict=True):
        ids.setdefault((each.about, roots[each.about, shape.text]), set()).update(known.get(each.key, ()))
    for each, shape in zip(said, shapes, strict=True):
        root = (each.about, roots[each.about, shape.text])
        name = next(iter(ids[root])) if len(ids[root]) == 1 else _id(*root)
        yield Claim(bad=each.bad, id=name, shape=shape, nested=root[1] != shape.text or len(ids[root]) == 1)


def _shapes(said: Sequence[_Said]) -> list[Shape]:
    """The shape of each: parameters are values where all cases that said exactly the same agree on that."""
    loose: dict[str, set[str]] = {}
    for each in said:
        loose.setdefault(each.key, set()).add(each.loose.text)
    return [each.loose if len(loose[each.key]) == 1 else each.exact for each in said]


def _root(about: str, text: str, texts: Iterable[tuple[str, str]]) -> str:
    """The shortest message of other cases that this one ends with, otherwise the message itself."""
    place = len(text)
    while (place := text.rfind(": ", 0, place)) > 0:
        inner = text[place + 2 :]
        if len(inner.replace("\0", "")) >= _LEAST_NESTED and (about, inner) in texts:
            return inner
    return text


def _id(about: str, text: str) -> str:
    """Words of a message, and a hash of all of it."""
    words = re.findall(r"[a-z0-9]+", text.lower())[:6]
    digest = hashlib.sha256(f"{about}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return "-".join([*("".join(word[:20]) for word in words), digest])
