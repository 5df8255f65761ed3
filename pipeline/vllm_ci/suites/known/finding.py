"""A finding that is known of some versions of an engine."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from vllm_ci.domain.stage import SEVERITIES

_NAMES = {"vllm": "vLLM"}


@dataclass(frozen=True, kw_only=True)
class KnownFinding:
    """A finding and the versions that have it.

    Attributes:
        engine: Name of the engine (``vllm``).
        id: Id of the finding (``open-route:POST /invocations``).
        title: What is wrong, in one line.
        severity: Highest severity with which it is known.
        seen_in: Versions in which it was observed.
        absent_in: Versions in which it was looked for and not found.
        affects: Versions that have it (PEP 440): those in which it was observed, those between them, and their patch releases.
        fixed_in: First version known not to have it any more; empty if there is none.
        advisories: CVE or GHSA ids, or links.
        source: How it was observed: request and response.
        suggestion: What to do about it.
        case: The built-in test that finds it, as in a report (``test_giant_headers_are_refused``); empty if none does.
    """

    engine: str
    id: str
    title: str
    severity: str
    seen_in: tuple[Version, ...]
    affects: SpecifierSet
    source: str
    suggestion: str
    case: str = ""
    absent_in: tuple[Version, ...] = ()
    fixed_in: Version | None = None
    advisories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for wrong in filter(None, (self._unlike_severity(), self._unlike_observations(), self._unlike_repair())):
            raise ValueError(f"{self.id}: {wrong}")

    def _unlike_severity(self) -> str:
        return "" if self.severity in SEVERITIES else f"severity is {self.severity!r}, not one of {', '.join(SEVERITIES)}"

    def _unlike_observations(self) -> str:
        if not self.seen_in:
            return "seen_in is empty: nothing is known without an observation"
        outside = [str(version) for version in self.seen_in if not self.has(version)]
        inside = [str(version) for version in self.absent_in if self.has(version)]
        return (
            f"affects says {self.affects}, but the observations differ: {', '.join(outside + inside)}"
            if outside + inside
            else ""
        )

    def _unlike_repair(self) -> str:
        if self.fixed_in is None:
            return ""
        late = self.fixed_in <= max(self.seen_in) or self.has(self.fixed_in)
        return f"fixed_in is {self.fixed_in}, but it was seen in {max(self.seen_in)} and affects {self.affects}" if late else ""

    def has(self, version: Version) -> bool:
        """Whether this version is known to have it; a build suffix (``+cpu``) does not matter."""
        return self.affects.contains(Version(version.public), prereleases=True)

    def may_be_gone(self, version: Version) -> bool:
        """Whether this version is newer than all in which it was observed, and no repair is known."""
        return self.fixed_in is None and Version(version.public) > max(self.seen_in)

    def about(self, version: Version) -> str:
        """What is known of it in this version, as part of a message."""
        name = _NAMES.get(self.engine, self.engine)
        repaired = self.fixed_in
        if self.has(version):
            fate = f"fixed in {repaired}" if repaired else "not fixed in any version known to this tool"
            return f"known of {name} {version}, {fate}"
        if repaired is not None and Version(version.public) >= repaired:
            return f"was fixed in {name} {repaired}, but is found in {version}"
        return f"known of {name} {self.span}, not of {version}"

    @property
    def span(self) -> str:
        """The versions in which it was observed: ``0.32.0`` or ``0.25.1 to 0.32.0``."""
        first, last = min(self.seen_in), max(self.seen_in)
        return str(last) if first == last else f"{first} to {last}"


def parsed(version: str) -> Version | None:
    """A version that a server reports; ``None`` if it reports none, or one that is not a version."""
    try:
        return Version(version)
    except InvalidVersion:
        return None
