"""The comparison itself, and the files that it compares with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from servers import expected, observed, results, rows
from servers.expected import Expected
from vllm_ci.suites import machine

KNOWN = Expected.model_validate(
    {
        "about": "A server.",
        "verdict": "failed",
        "findings": [
            {"id": "open-route:POST /x", "reason": "serves without the key", "proof": "POST /x without a key -> 200"},
            {
                "id": "slow:y",
                "reason": "takes long sometimes",
                "proof": "measured on a busy machine",
                "sometimes": "only under load",
            },
        ],
        "present": ["chat"],
        "absent": {"metrics": "there is no such route"},
        "judged": {"security": 2},
    }
)


def case(name: str, status: str, message: str = "", **properties: Any) -> dict[str, Any]:
    return {"name": name, "status": status, "message": message, "properties": properties}


def finding(name: str, severity: str) -> dict[str, str]:
    return {"id": name, "severity": severity, "message": "said\nin two lines"}


def report(*cases: dict[str, Any], verdict: str = "failed", capabilities: tuple[str, ...] = ("chat",)) -> dict[str, Any]:
    facts = {"server": {"version": "9.9", "capabilities": list(capabilities), "absent": {}}}
    stage = {"name": "security", "cases": list(cases), "facts": facts}
    return {"verdict": verdict, "seconds": 7.0, "server": {}, "problem": None, "stages": [stage]}


AS_KNOWN = (
    case("security/test_a.py::test_x", "failed", findings=[finding("open-route:POST /x", "high")], accepted=[]),
    case("security/test_a.py::test_ok", "passed", findings=[finding("open-route:GET /docs", "low")], accepted=[]),
)


def lines(*cases: dict[str, Any], **fields: Any) -> list[str]:
    return expected.differences(KNOWN, observed.read(report(*cases, **fields)))


def test_a_run_as_expected_has_no_differences() -> None:
    assert lines(*AS_KNOWN) == []


@pytest.mark.parametrize(
    "seen",
    [
        {"stalled": 0.97, "queue": None, "late_s": 0.0},
        {"stalled": None, "queue": 1.8, "late_s": 0.0},
        {"stalled": None, "queue": None, "late_s": 0.2},
        {"stalled": None, "queue": None, "late_s": 0.0, "stolen": 0.5},
    ],
    ids=["pressure", "queue", "timer", "host"],
)
def test_what_a_busy_machine_could_not_tell_is_no_difference(seen: dict[str, Any]) -> None:
    busy = f"held back, but {machine.Seen(**seen).starved}"
    assert lines(*AS_KNOWN, case("security/test_a.py::test_z", "inconclusive", busy)) == []
    assert lines(*AS_KNOWN, case("security/test_a.py::test_z", "inconclusive", "another reason"))
    assert lines(*AS_KNOWN, case("security/test_a.py::test_z", "failed", busy))


def test_a_new_finding_is_a_difference() -> None:
    new = case("security/test_b.py::test_z", "failed", findings=[finding("harm:z", "critical"), finding("low:z", "low")])
    assert lines(*AS_KNOWN, new) == ["new:  harm:z (failed): [critical] said in two lines"]


def test_a_case_without_findings_is_named_by_itself() -> None:
    new = case("security/test_b.py::test_z", "errored", "no\nidea")
    assert lines(*AS_KNOWN, new) == ["new:  security/test_b.py::test_z (errored): no idea"]


def test_new_cases_with_one_reason_are_one_line() -> None:
    new = [case(f"security/test_b.py::test_{number}", "errored", "not run: the server is gone") for number in range(5)]
    named = ", ".join(f"security/test_b.py::test_{number}" for number in range(3))
    assert lines(*AS_KNOWN, *new) == [f"new:  {named} and 2 more (errored): not run: the server is gone"]


@pytest.mark.parametrize("name", ["server-died:z", "server-hangs:z", "harm:z"])
def test_cases_that_were_not_run_are_no_difference_where_the_death_is_known(name: str) -> None:
    died = case("security/test_b.py::test_z", "failed", findings=[finding(name, "critical")], accepted=[])
    after = case("security/test_c.py::test_c", "errored", "not run: the server is gone")
    found = observed.read(report(*AS_KNOWN, died, after))
    assert len(expected.differences(KNOWN, found)) == 2
    known = expected.Finding(id=name, reason="one request ends it", proof="seen in its log")
    assert expected.differences(KNOWN.model_copy(update={"findings": (*KNOWN.findings, known)}), found) == []


def test_an_inconclusive_case_is_a_difference() -> None:
    assert lines(*AS_KNOWN, case("security/test_b.py::test_z", "inconclusive", "busy")) == [
        "new:  security/test_b.py::test_z (inconclusive): busy"
    ]


def test_a_finding_that_is_gone_is_a_difference_unless_it_comes_sometimes() -> None:
    ok = [case(f"security/test_a.py::test_{number}", "passed") for number in range(2)]
    assert lines(*ok) == ["gone: open-route:POST /x: serves without the key"]


def test_another_verdict_too_few_cases_and_other_capabilities_are_differences() -> None:
    assert lines(AS_KNOWN[0], verdict="errored", capabilities=("metrics",)) == [
        "verdict: expected failed, got errored",
        "capability chat: expected, but: the report does not mention it",
        "capability metrics: found, but it has none: there is no such route",
        "security: 1 cases were judged, at least 2 were expected",
    ]


def test_skips_are_counted_by_reason() -> None:
    skips = [case(f"security/test_a.py::test_{n}", "skipped", f'/x: 400: {{"n": {n}}}') for n in range(3)]
    assert observed.read(report(*skips)).skipped == {"/x: 400": 3}


def test_a_result_is_kept_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CI_SERVERS_HOME", str(tmp_path))
    skipped = case("security/test_a.py::test_s", "skipped", "not here")
    failed = case("security/test_a.py::test_f", "failed", f"a path {tmp_path}/x")
    results.keep(rows.ROWS[0], observed.read(report(*AS_KNOWN, skipped, failed)))
    kept = json.loads((tmp_path / "results" / f"{rows.ROWS[0].name}.json").read_text(encoding="utf-8"))
    assert (kept["skipped"], kept["judged"]) == ({"not here": 1}, {"security": 3})
    assert kept["findings"] == {"open-route:POST /x": "failed", "security/test_a.py::test_f": "failed"}
    assert kept["messages"]["security/test_a.py::test_f"] == "a path .../x"


def test_the_page_compares_a_kept_result_with_what_is_known_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CI_SERVERS_HOME", str(tmp_path))
    row = rows.ROWS[0]
    monkeypatch.setattr(expected, "load", lambda _: KNOWN)
    failed = case("security/test_a.py::test_f", "failed", "what it says")
    gone = case("security/test_a.py::test_g", "errored", "not run: the server is gone")
    results.keep(row, observed.read(report(*AS_KNOWN, failed, gone)))
    kept = {row.name: json.loads((tmp_path / "results" / f"{row.name}.json").read_text(encoding="utf-8"))}
    page = results.render(kept)
    assert "- new:  security/test_a.py::test_f (failed): what it says" in page
    assert "- new:  1 cases (errored): not run" in page
    death = expected.Finding(id="security/test_a.py::test_f", reason="found out since", proof="by a raw request")
    monkeypatch.setattr(expected, "load", lambda _: KNOWN.model_copy(update={"findings": (*KNOWN.findings, death)}))
    assert "- new:  security" not in results.render(kept)


@pytest.mark.parametrize("row", rows.ROWS, ids=lambda row: row.name)
def test_every_row_has_expectations_with_reasons(row: rows.Row) -> None:
    known = expected.load(row.name)
    assert known.about.strip()
    names = [finding.id for finding in known.findings]
    assert len(names) == len(set(names))
    assert set(known.judged) == set(observed.STAGES)
    assert (known.verdict == "failed") == any(not finding.sometimes for finding in known.findings)


def test_a_row_that_is_like_another_has_its_findings_except_those_it_is_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expected, "FOLDER", tmp_path)
    found = "{id: %s, reason: a long reason, proof: a raw request}"
    (tmp_path / "a.yaml").write_text(
        f"about: A.\nverdict: failed\njudged: {{security: 3}}\nfindings: [{found % 'x'}, {found % 'y'}]\n"
    )
    (tmp_path / "b.yaml").write_text(f"about: B.\nlike: a\nwithout: [x]\nfindings: [{found % 'z'}]\n")
    known = expected.load("b")
    assert (known.about, known.verdict, known.judged) == ("B.", "failed", {"security": 3})
    assert [finding.id for finding in known.findings] == ["y", "z"]
    (tmp_path / "b.yaml").write_text("about: B.\nlike: a\nwithout: [unknown]\n")
    with pytest.raises(ValueError, match="does not have"):
        expected.load("b")


def test_every_file_of_expectations_belongs_to_a_row() -> None:
    assert {file.stem for file in expected.FOLDER.glob("*.yaml")} == {row.name for row in rows.ROWS}


def test_the_page_is_made_from_the_results() -> None:
    kept = json.loads(results.KEPT.read_text(encoding="utf-8"))
    assert results.PAGE.read_text(encoding="utf-8") == results.render(kept)


def test_a_row_that_was_run_on_another_machine_is_kept_from_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_CI_SERVERS_HOME", str(tmp_path / "home"))
    for name in ("KEPT", "PAGE"):
        monkeypatch.setattr(results, name, tmp_path / name)
    (tmp_path / "report.json").write_text(json.dumps(report(*AS_KNOWN)))
    monkeypatch.setattr("sys.argv", ["results", "vllm-gpu-0.25.1", str(tmp_path / "report.json")])
    results.main()
    kept = json.loads((tmp_path / "KEPT").read_text())["vllm-gpu-0.25.1"]
    assert (kept["version"], kept["findings"]) == ("9.9", {"open-route:POST /x": "failed"})
    assert "new:  open-route:POST /x (failed)" in capsys.readouterr().out


def test_rows_that_were_not_run_keep_their_results() -> None:
    first, second = rows.ROWS[0].name, rows.ROWS[1].name
    assert results.merge({first: 1, second: 2}, {second: 3, "gone": 4}) == {first: 1, second: 3}
