"""All known findings, and what they say about the findings of one server."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import yaml
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from vllm_ci.domain.stage import SEVERITIES
from vllm_ci.suites.known.finding import KnownFinding, parsed

_FIELDS = {
    "id",
    "title",
    "severity",
    "seen_in",
    "absent_in",
    "affects",
    "fixed_in",
    "advisories",
    "source",
    "suggestion",
    "case",
}
_OPTIONAL = {"absent_in", "fixed_in", "advisories", "case"}


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Known findings by id."""

    findings: Mapping[str, KnownFinding] = field(default_factory=dict)

    def about(self, finding: str, version: str) -> str:
        """What is known of a finding of a server with this version; empty if nothing is."""
        known, found = self.findings.get(finding), parsed(version)
        return known.about(found) if known and found else ""

    def engine(self, finding: str, severity: str, version: str) -> str:
        """The engine whose version is known to have this finding.

        Empty if the version is outside the range or not a version, or the finding is more severe than what is known.
        """
        known, found = self.findings.get(finding), parsed(version)
        if known is None or found is None or not known.has(found):
            return ""
        return known.engine if SEVERITIES.index(severity) <= SEVERITIES.index(known.severity) else ""

    def gone(self, version: str, found: Collection[str], ran: Collection[str]) -> tuple[KnownFinding, ...]:
        """Findings of earlier versions that are not known to be repaired, and were not found although their case ran.

        Args:
            version: Version that the server reports.
            found: Ids of the findings of a run.
            ran: Names of the cases that passed or failed.
        """
        number, cases = parsed(version), {name.rpartition("::")[2] for name in ran}
        if number is None:
            return ()
        expected = (known for known in self.findings.values() if known.may_be_gone(number) and known.case in cases)
        return tuple(known for known in expected if known.id not in found)


def vllm_version(server: Mapping[str, Any]) -> str:
    """The version of vLLM, from the facts about a server; empty if it reports none, or does not say that it is vLLM."""
    return str(server.get("version") or "") if server.get("is_vllm") else ""


@functools.cache
def catalogue() -> Catalogue:
    """The known findings that this tool comes with.

    Raises:
        ValueError: A file is not valid.
    """
    root = resources.files(__package__)
    found: dict[str, KnownFinding] = {}
    for folder in sorted((entry for entry in root.iterdir() if entry.is_dir()), key=lambda entry: entry.name):
        for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if file.name.endswith(".yaml"):
                known = read(file, folder.name)
                if known.id in found:
                    raise ValueError(f"{file.name}: {known.id} is described in two files")
                found[known.id] = known
    return Catalogue(findings=found)


def read(file: Traversable, engine: str) -> KnownFinding:
    """One file.

    Raises:
        ValueError: It is not valid; the message names the file.
    """
    try:
        return _finding(yaml.safe_load(file.read_text(encoding="utf-8")), engine)
    except (ValueError, TypeError, AttributeError, InvalidVersion, InvalidSpecifier, yaml.YAMLError) as error:
        raise ValueError(f"{file.name} is not a known finding: {error}") from error


def _finding(data: Any, engine: str) -> KnownFinding:
    if wrong := sorted((set(data) - _FIELDS) | (_FIELDS - _OPTIONAL - set(data))):
        raise ValueError(f"unknown or missing: {', '.join(wrong)}")
    texts = {name: _text(data, name) for name in ("id", "title", "severity", "source", "suggestion")}
    fixed = data.get("fixed_in")
    return KnownFinding(
        engine=engine,
        **texts,
        seen_in=_versions(data, "seen_in"),
        absent_in=_versions(data, "absent_in"),
        affects=SpecifierSet(_text(data, "affects")),
        case=_text(data, "case") if "case" in data else "",
        fixed_in=None if fixed is None else Version(fixed),
        advisories=tuple(data.get("advisories") or ()),
    )


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data[name]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {value!r}, not a text")
    return value.strip()


def _versions(data: Mapping[str, Any], name: str) -> tuple[Version, ...]:
    return tuple(Version(value) for value in data.get(name) or ())
