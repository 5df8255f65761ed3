"""Vulnerabilities of packages, by OSV data (OSV schema 1.7) in files: a scan that gives the same result anywhere, offline."""

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any

from cvss import CVSS2, CVSS3, CVSS4  # type: ignore[import-untyped]
from cvss.exceptions import CVSSError  # type: ignore[import-untyped]
from packaging.version import InvalidVersion, Version

from vllm_ci.domain.errors import ConfigError
from vllm_ci.evidence import debian_version
from vllm_ci.evidence.materials import Package
from vllm_ci.evidence.statement import moment


class Severity(IntEnum):
    """Qualitative rating (CVSS 3.1, section 5); unrated ones count as high."""

    NONE = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    @classmethod
    def named(cls, text: str) -> Severity:
        """By name; ``MODERATE`` is GitHub's word for medium; unknown ratings count as high."""
        words = {"MODERATE": cls.MEDIUM, "NEGLIGIBLE": cls.LOW, "UNIMPORTANT": cls.LOW}
        return words.get(text.upper()) or cls.__members__.get(text.upper(), cls.HIGH)

    @classmethod
    def scored(cls, score: float) -> Severity:
        """By CVSS base score."""
        return (
            cls.CRITICAL
            if score >= 9
            else cls.HIGH
            if score >= 7
            else cls.MEDIUM
            if score >= 4
            else cls.LOW
            if score
            else cls.NONE
        )


@dataclass(frozen=True, kw_only=True)
class Vulnerability:
    """A vulnerability that a package has.

    Attributes:
        id: Of the vulnerability.
        aliases: Its other ids.
        package: ``name version``.
        severity: Rating.
        score: As rated: a number, or a word.
        fixed: Version that fixes it, empty when none is known.
    """

    id: str
    package: str
    severity: Severity
    score: str = ""
    aliases: tuple[str, ...] = ()
    fixed: str = ""


@dataclass(frozen=True, kw_only=True)
class Database:
    """OSV entries by ecosystem and package.

    Attributes:
        entries: Of (ecosystem, name).
        updated: Newest change in it: the data is at least this new, and nothing later is known to it.
        count: Number of entries.
    """

    entries: Mapping[tuple[str, str], tuple[Mapping[str, Any], ...]]
    updated: datetime
    count: int


def read(path: Path) -> Database:
    """A database from a JSON file (an entry or a list of them), a ZIP of such files, or a folder of either.

    Raises:
        ConfigError: It contains no OSV entry, or a file that is not OSV data.
    """
    entries: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    updated = datetime.fromtimestamp(0, UTC)
    count = 0
    for name, content in _files(path):
        for entry in _entries(name, content):
            count += 1
            updated = max(updated, moment(entry["modified"]))
            for affected in entry.get("affected", ()):
                package = affected.get("package") or {}
                entries.setdefault((str(package.get("ecosystem")), str(package.get("name"))), []).append(entry)
    if not count:
        raise ConfigError(f"{path} holds no OSV entries", remedy="give a file, ZIP or folder of OSV data, as OSV exports it")
    unique = {key: tuple({each["id"]: each for each in found}.values()) for key, found in entries.items()}
    return Database(entries=unique, updated=updated, count=count)


def find(database: Database, packages: Iterable[Package]) -> tuple[Vulnerability, ...]:
    """The vulnerabilities of some packages, worst first."""
    found = [
        _finding(entry, package)
        for package in packages
        for entry in database.entries.get((package.ecosystem, package.source), ())
        if not entry.get("withdrawn") and any(_affects(each, package) for each in _of(entry, package))
    ]
    return tuple(sorted(found, key=lambda each: (-each.severity, each.id, each.package)))


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    if not path.exists():
        raise ConfigError(f"there is no OSV data at {path}", remedy="give a file, ZIP or folder of OSV data")
    for file in sorted(each for each in path.rglob("*") if each.suffix in {".json", ".zip"}) if path.is_dir() else [path]:
        if file.suffix == ".zip":
            with zipfile.ZipFile(file) as archive:
                for name in sorted(archive.namelist()):
                    yield f"{file}/{name}", archive.read(name)
        else:
            yield str(file), file.read_bytes()


def _entries(name: str, content: bytes) -> Iterator[dict[str, Any]]:
    try:
        value = json.loads(content)
        for entry in value if isinstance(value, list) else [value]:
            _ = entry["id"], entry["modified"]
            yield entry
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{name} is not OSV data ({type(error).__name__}: {error})", remedy="see the OSV schema") from error


def _of(entry: Mapping[str, Any], package: Package) -> Iterator[Mapping[str, Any]]:
    for affected in entry.get("affected", ()):
        named = affected.get("package") or {}
        if (named.get("ecosystem"), named.get("name")) == (package.ecosystem, package.source):
            yield affected


def _affects(affected: Mapping[str, Any], package: Package) -> bool:
    """Whether a version is among those named, or within a range (OSV schema, "Evaluation")."""
    version = _source_version(package)
    if any(_compare(package, version, str(each)) == 0 for each in affected.get("versions", ())):
        return True
    return any(
        _within(each.get("events", ()), package, version) for each in affected.get("ranges", ()) if each.get("type") != "GIT"
    )


def _within(events: Iterable[Mapping[str, str]], package: Package, version: str) -> bool:
    affected = False
    for event in _sorted(events, package):
        (kind, limit), *_ = event.items()
        if kind == "introduced" and (limit == "0" or _compare(package, version, limit) >= 0):
            affected = True
        elif (kind == "fixed" and _compare(package, version, limit) >= 0) or (
            kind == "last_affected" and _compare(package, version, limit) > 0
        ):
            affected = False
    return affected


def _sorted(events: Iterable[Mapping[str, str]], package: Package) -> list[Mapping[str, str]]:
    def order(one: Mapping[str, str], other: Mapping[str, str]) -> int:
        left, right = next(iter(one.values())), next(iter(other.values()))
        return (left != "0") - (right != "0") if "0" in (left, right) else _compare(package, left, right)

    return sorted(events, key=functools.cmp_to_key(order))


def _compare(package: Package, one: str, other: str) -> int:
    if package.ecosystem.startswith("Debian"):
        return debian_version.compare(one, other)
    try:
        left, right = Version(one), Version(other)
    except InvalidVersion:
        return (one > other) - (one < other)
    return (left > right) - (left < right)


def _source_version(package: Package) -> str:
    """The version that data goes by: a Debian rebuild (``+b1``) has its source's, and upstream knows no local labels."""
    if package.ecosystem.startswith("Debian"):
        stem, plus, number = package.version.rpartition("+b")
        return stem if plus and number.isdigit() else package.version
    return package.version.partition("+")[0]


def _finding(entry: Mapping[str, Any], package: Package) -> Vulnerability:
    severity, score = _severity(entry, package)
    fixes = [
        event["fixed"]
        for affected in _of(entry, package)
        for each in affected.get("ranges", ())
        if each.get("type") != "GIT"
        for event in each.get("events", ())
        if "fixed" in event and _compare(package, event["fixed"], package.version) > 0
    ]
    return Vulnerability(
        id=str(entry["id"]),
        package=f"{package.name} {package.version}",
        severity=severity,
        score=score,
        aliases=tuple(str(each) for each in entry.get("aliases", ())),
        fixed=str(fixes[0]) if fixes else "",
    )


def _severity(entry: Mapping[str, Any], package: Package) -> tuple[Severity, str]:
    """The highest CVSS base score given, else the database's own rating."""
    kinds = {"CVSS_V2": CVSS2, "CVSS_V3": CVSS3, "CVSS_V4": CVSS4}
    given = [*entry.get("severity", ()), *(each for affected in _of(entry, package) for each in affected.get("severity", ()))]
    scores = []
    for each in given:
        try:
            scores.append(float(kinds[each["type"]](each["score"]).base_score))
        except (CVSSError, LookupError):
            continue  # a vector of a kind that is not understood: the word below, or high
    if scores:
        return Severity.scored(max(scores)), f"{max(scores):.1f}"
    words = [entry.get("database_specific", {}).get("severity"), entry.get("ecosystem_specific", {}).get("urgency")]
    words += [affected.get("ecosystem_specific", {}).get("urgency") for affected in _of(entry, package)]
    word = next((str(each) for each in words if each), "")
    return Severity.named(word), word.lower() or "unrated"
