"""Known findings: the files that ship, and what they decide for a server of some version."""

from __future__ import annotations

import datetime as dt
import json
import re
from importlib import resources
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from vllm_ci.domain.stage import SEVERITIES, AcceptedFinding, AcceptedKnown
from vllm_ci.suites.findings import Finding, FindingPolicy, Judgement
from vllm_ci.suites.known import catalogue as known_files
from vllm_ci.suites.known.catalogue import Catalogue, catalogue, vllm_version
from vllm_ci.suites.known.finding import KnownFinding

TODAY = dt.date(2026, 11, 26)
KNOWN = KnownFinding(
    engine="vllm",
    id="open-route:POST /x",
    title="is open",
    severity="high",
    seen_in=(Version("0.28.0"), Version("0.32.0")),
    affects=SpecifierSet(">=0.28,<0.33"),
    source="POST /x -> 200",
    suggestion="put a gateway in front",
    case="test_it[x]",
)
REPAIRED = KnownFinding(
    engine="vllm",
    id="repaired",
    title="answers 500",
    severity="medium",
    seen_in=(Version("0.25.1"), Version("0.28.0")),
    absent_in=(Version("0.30.0"),),
    affects=SpecifierSet(">=0.25,<0.30"),
    fixed_in=Version("0.30.0"),
    source="POST /y -> 500",
    suggestion="update",
    case="test_it[y]",
)
FILES = Catalogue(findings={each.id: each for each in (KNOWN, REPAIRED)})
OPEN = Finding(id=KNOWN.id, severity="high", message="answers 200 without the key")


def judged(finding: Finding, version: str, *, until: dt.date = TODAY, up_to: str = "high") -> Judgement:
    entry = AcceptedKnown(known="vllm", until=until, up_to=up_to)
    return FindingPolicy(accepted=[entry], today=TODAY, known=FILES, version=version).judge([finding])


@pytest.mark.parametrize("version", ["0.28.0", "0.32.0", "0.32.0+cpu", "0.32.1.dev3+g1234567", "0.30.0rc1"])
def test_a_finding_is_accepted_for_versions_that_are_known_to_have_it(version: str) -> None:
    assert judged(OPEN, version).accepted == judged(OPEN, version).found


@pytest.mark.parametrize(
    "version", ["", "0.27.1", "0.33.0", "0.33.0rc1", "0.33.0.dev1", "1.0", "32", "unknown", "0.32.0 ", "v0.99"]
)
def test_a_finding_is_not_accepted_for_another_version_or_without_one(version: str) -> None:
    judgement = judged(OPEN, version)
    assert bool(judgement.failing) is (version.strip() != "0.32.0")
    assert not judgement.expired


@pytest.mark.slow
@given(
    version=st.one_of(
        st.text(max_size=20), st.from_regex(r"\A[0-9]{1,3}(\.[0-9]{1,4}){0,3}([a-z]+[0-9]{0,3})?(\+[a-z0-9.]*)?\Z")
    )
)
def test_no_text_that_a_server_calls_its_version_is_an_error_or_widens_the_range(version: str) -> None:
    judgement = judged(OPEN, version)
    assert len(judgement.failing) + len(judgement.accepted) == 1
    if judgement.accepted:
        assert KNOWN.has(Version(version))
    assert REPAIRED.id not in {each.id for each in FILES.gone(version, [], ["a::test_it[x]", "a::test_it[y]"])}


@pytest.mark.parametrize(("severity", "accepted"), [("low", True), ("medium", True), ("high", True), ("critical", False)])
def test_a_finding_that_is_more_severe_than_what_is_known_is_not_accepted(severity: str, accepted: bool) -> None:
    assert bool(judged(Finding(id=KNOWN.id, severity=severity, message="m"), "0.32.0").accepted) is accepted
    known_as_medium = judged(Finding(id=REPAIRED.id, severity=severity, message="m"), "0.25.1")
    assert bool(known_as_medium.accepted) is (severity in ("low", "medium"))


def test_a_critical_finding_is_never_accepted_by_a_version() -> None:
    fatal = KnownFinding(**{**{name: getattr(KNOWN, name) for name in KNOWN.__dataclass_fields__}, "severity": "critical"})
    policy = FindingPolicy(
        accepted=[AcceptedKnown(known="vllm", until=TODAY)],
        today=TODAY,
        known=Catalogue(findings={fatal.id: fatal}),
        version="0.32.0",
    )
    assert policy.judge([Finding(id=fatal.id, severity="critical", message="m")]).failing
    with pytest.raises(ValueError, match="low, medium, high"):
        AcceptedKnown(known="vllm", until=TODAY, up_to="critical")


def test_the_highest_accepted_severity_can_be_lowered() -> None:
    assert judged(OPEN, "0.32.0", up_to="medium").failing


def test_acceptance_of_what_is_known_ends_with_its_day() -> None:
    late = judged(OPEN, "0.32.0", until=TODAY - dt.timedelta(days=1))
    assert late.failing == late.expired
    assert "has expired" in str(late)
    assert late.failing


def test_an_entry_for_one_finding_outlasts_the_expired_one_for_all() -> None:
    entries = (
        AcceptedKnown(known="vllm", until=TODAY - dt.timedelta(days=1)),
        AcceptedFinding(id=KNOWN.id, reason="r", until=TODAY),
    )
    assert FindingPolicy(accepted=entries, today=TODAY, known=FILES, version="0.32.0").judge([OPEN]).accepted


def test_an_unknown_finding_is_not_accepted() -> None:
    assert judged(Finding(id="open-route:POST /z", severity="high", message="m"), "0.32.0").failing


@pytest.mark.parametrize(
    ("finding", "version", "said"),
    [
        (KNOWN.id, "0.32.0", "known of vLLM 0.32.0, not fixed in any version known to this tool"),
        ("repaired", "0.25.1", "known of vLLM 0.25.1, fixed in 0.30.0"),
        ("repaired", "0.32.0", "was fixed in vLLM 0.30.0, but is found in 0.32.0"),
        (KNOWN.id, "0.34.0", "known of vLLM 0.28.0 to 0.32.0, not of 0.34.0"),
        (KNOWN.id, "", ""),
        ("other", "0.32.0", ""),
    ],
)
def test_every_view_of_a_finding_says_what_is_known_of_it(finding: str, version: str, said: str) -> None:
    (found,) = judged(Finding(id=finding, severity="high", message="m"), version).found
    assert found.known == said
    advice = {"known": said, "suggestion": FILES.findings[finding].suggestion} if said else {}
    assert found.properties == {"id": finding, "severity": "high", "message": f"m ({said})" if said else "m", **advice}


def test_a_newer_version_without_a_finding_is_noticed_if_its_case_ran() -> None:
    def gone(version: str, found: list[str], ran: list[str]) -> list[str]:
        return [each.id for each in FILES.gone(version, found, ran)]

    ran = ["security/test_a.py::test_it[x]", "security/test_a.py::test_it[y]"]
    assert gone("0.34.0", [], ran) == [KNOWN.id]
    assert gone("0.34.0", [KNOWN.id], ran) == []
    assert gone("0.34.0", [], ran[1:]) == []
    assert gone("0.32.0", [], ran) == []
    assert gone("", [], ran) == []


def test_the_version_of_another_server_is_not_one_of_vllm() -> None:
    assert vllm_version({"version": "0.32.0", "is_vllm": True}) == "0.32.0"
    assert vllm_version({"version": "0.32.0", "is_vllm": False}) == vllm_version({"is_vllm": True, "version": None}) == ""


# The files that ship.

FOLDER = Path(str(resources.files("vllm_ci.suites.known").joinpath("vllm")))


def test_the_files_that_ship_are_valid() -> None:
    assert len(catalogue().findings) == len(list(FOLDER.glob("*.yaml"))) > 10


@pytest.mark.parametrize("known", catalogue().findings.values(), ids=lambda known: known.id)
def test_a_file_that_ships_says_what_was_observed_and_names_a_case_that_exists(known: KnownFinding) -> None:
    promised = json.loads(resources.files("vllm_ci.suites").joinpath("manifest.json").read_text(encoding="utf-8"))
    functions = {name.partition("::")[2] for suite in promised.values() for name in suite}
    assert not known.case or known.case.partition("[")[0] in functions
    assert "->" in known.source
    assert known.severity in SEVERITIES
    assert all(re.match(r"https://|CVE-\d{4}-\d+$|GHSA-", advisory) for advisory in known.advisories)


GOOD = yaml.safe_load((FOLDER / "giant-header.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"severity": "bad"}, "not one of low"),
        ({"seen_in": []}, "nothing is known without an observation"),
        ({"seen_in": ["0.1"]}, "observations differ: 0.1"),
        ({"absent_in": ["0.32.0"]}, "observations differ: 0.32.0"),
        ({"fixed_in": "0.32.0"}, "but it was seen in"),
        ({"fixed_in": "soon"}, "soon"),
        ({"affects": "about 0.32"}, "about 0.32"),
        ({"source": ""}, "source"),
        ({"extra": 1}, "extra"),
        ({"id": None}, "id"),
        ({"seen_in": [0.32]}, "Invalid version: 0.32"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_by_name(tmp_path: Path, change: dict[str, object], why: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **change}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"x\.yaml is not a known finding") as refused:
        known_files.read(path, "vllm")
    assert why in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "5", "{", "text"])
def test_a_file_that_is_no_finding_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"x\.yaml is not a known finding"):
        known_files.read(path, "vllm")


def test_the_table_in_the_documentation_is_that_of_the_files() -> None:
    def row(known: KnownFinding) -> str:
        seen, absent = (", ".join(map(str, versions)) for versions in (known.seen_in, known.absent_in))
        return f"| `{known.id}` | {known.severity} | {known.title} | {seen} | {absent or '-'} | {known.fixed_in or '-'} |"

    order = sorted(catalogue().findings.values(), key=lambda known: (-SEVERITIES.index(known.severity), known.id))
    head = "| id | severity | what is wrong | seen in | absent in | fixed in |\n|---|---|---|---|---|---|"
    table = "\n".join([head, *map(row, order)])
    page = Path(__file__).parents[3] / "docs" / "upgrading-vllm.md"
    assert table in page.read_text(encoding="utf-8"), f"replace the table by this one:\n{table}"
