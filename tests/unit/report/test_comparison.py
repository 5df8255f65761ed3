"""Two versions are compared by their reports: what is new, fixed, flaky, gone, slower and bigger, and how sure that is."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vllm_ci.cli import root
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.image import ImageLayer, ImageRef
from vllm_ci.domain.report import Case, CaseStatus, Problem, Report, StageResult, Verdict, verdict_of
from vllm_ci.report import document, folder
from vllm_ci.report.comparison import Change, Comparison, compare
from vllm_ci.report.comparison_views import headline, markdown, text, to_json
from vllm_ci.report.markdown import code

P, F, E, S, U = CaseStatus.PASSED, CaseStatus.FAILED, CaseStatus.ERRORED, CaseStatus.SKIPPED, CaseStatus.INCONCLUSIVE


def run(cases: Mapping[str, CaseStatus], *, letter: str = "a", scale: float = 1.0, stage: str = "streaming") -> Report:
    made = tuple(
        Case(
            name=name, status=status, message="" if status is P else f"{name} is wrong", properties={"ttft_ms": scale * (5 + n)}
        )
        for n, (name, status) in enumerate(cases.items())
    )
    verdict, message = verdict_of(made)
    return Report(
        commit=Commit(sha=letter * 40),
        image=ImageRef(repository="x", digest="sha256:" + letter * 64),
        engine="host",
        stages=(StageResult(name=stage, verdict=verdict, seconds=1, cases=made, message=message),),
        started_at="2026-11-21T00:00:00+00:00",
    )


def changes(found: Comparison) -> dict[str, Change]:
    return {case.name: case.change for case in found.cases}


@pytest.mark.parametrize(
    ("before", "after", "change", "verdict"),
    [
        (P, P, None, Verdict.PASSED),
        (P, F, Change.NEW, Verdict.FAILED),
        (P, E, Change.NEW, Verdict.FAILED),
        (S, F, Change.NEW, Verdict.FAILED),
        (None, F, Change.NEW, Verdict.FAILED),
        (None, P, None, Verdict.PASSED),
        (F, P, Change.FIXED, Verdict.PASSED),
        (F, F, Change.STILL, Verdict.PASSED),
        (F, E, Change.STILL, Verdict.PASSED),
        (F, S, Change.SKIPPED, Verdict.INCONCLUSIVE),
        (P, S, Change.SKIPPED, Verdict.INCONCLUSIVE),
        (S, S, None, Verdict.PASSED),
        (P, None, Change.GONE, Verdict.INCONCLUSIVE),
        (F, None, Change.GONE, Verdict.INCONCLUSIVE),
        (P, U, Change.UNDECIDED, Verdict.INCONCLUSIVE),
        (F, U, Change.UNDECIDED, Verdict.INCONCLUSIVE),
    ],
)
def test_what_becomes_of_a_case(
    before: CaseStatus | None, after: CaseStatus | None, change: Change | None, verdict: Verdict
) -> None:
    old, new = ({"fine": P, **({"x": status} if status else {})} for status in (before, after))
    found = compare([run(old)], [run(new, letter="b")])
    assert changes(found).get("x") is change
    assert found.verdict is verdict


def test_cases_that_differ_between_runs_of_one_version_or_of_one_image_are_flaky() -> None:
    several = compare([run({"x": P, "y": P}), run({"x": F, "y": P})], [run({"x": P, "y": P}, letter="b")])
    assert changes(several) == {"x": Change.FLAKY}
    same = compare([run({"x": P})], [run({"x": F})])
    assert changes(same)["x"] is Change.FLAKY
    assert "both are of the same image: cases that differ are flaky" in same.notes
    assert same.verdict is Verdict.INCONCLUSIVE


def test_a_run_that_skipped_a_case_does_not_make_it_flaky() -> None:
    older, newer = run({"x": P, "y": P}), run({"x": F, "y": P}, letter="b")
    left_out = run({"x": S, "y": P}, letter="b")
    assert changes(compare([older], [newer, left_out])) == {"x": Change.NEW}
    assert compare([older], [newer, left_out]).verdict is Verdict.FAILED
    assert changes(compare([newer, left_out], [older])) == {"x": Change.FIXED}
    assert changes(compare([newer], [left_out])) == {"x": Change.SKIPPED}, "of the same image"


def test_the_same_image_is_known_by_its_digest_whatever_its_tags_and_repository_are() -> None:
    older, newer = run({"x": P}), run({"x": F})
    assert newer.image
    newer = replace(newer, image=replace(newer.image, repository="registry.example.com/x", tags=("b" * 40,)))
    assert changes(compare([older], [newer])) == {"x": Change.FLAKY}


def test_a_stage_that_only_the_newer_runs_have_and_that_did_not_pass_makes_it_inconclusive() -> None:
    older, failed, passed = run({"x": P}), run({"y": F}, stage="security"), run({"y": P}, stage="security")
    newer = replace(run({"x": P}, letter="b"), stages=(*older.stages, *failed.stages))
    found = compare([older], [newer])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert headline(found) == "1 stage without an older result did not pass"
    assert "only the newer runs have: `security` (did not pass)" in markdown(found, "a", "b")
    assert to_json(found, "a", "b")["stages"]["only_newer_bad"] == ["security"]
    found = compare([older], [replace(newer, stages=(*older.stages, *passed.stages))])
    assert (found.verdict, headline(found)) == (Verdict.PASSED, "no difference in the cases")


def test_a_stage_that_broke_as_a_whole_is_a_new_failure_with_its_message() -> None:
    broken = replace(
        run({}, letter="b"), stages=(StageResult(name="streaming", verdict=Verdict.ERRORED, seconds=0, message="died"),)
    )
    found = compare([run({"x": P})], [broken])
    assert [(case.name, case.message) for case in found.of(Change.NEW)] == [("", "died")]
    assert found.verdict is Verdict.FAILED


def test_a_failure_of_a_stage_that_broke_as_a_whole_in_the_older_run_is_not_called_new() -> None:
    whole = StageResult(name="streaming", verdict=Verdict.ERRORED, seconds=0, message="the server did not start")
    found = compare([replace(run({}), stages=(whole,))], [run({"x": F, "y": P}, letter="b")])
    assert changes(found) == {"x": Change.UNDECIDED, "": Change.FIXED}
    assert found.verdict is Verdict.INCONCLUSIVE


def test_only_stages_of_both_are_compared_and_the_others_are_named() -> None:
    found = compare([run({"x": P}, stage="security")], [run({"x": F}, letter="b")])
    assert (found.cases, found.only_older, found.only_newer) == ((), ("security",), ("streaming",))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert headline(found) == "1 stage no longer run, 1 stage without an older result did not pass"
    assert headline(compare([run({"x": P}, stage="security")], [run({"x": P}, letter="b")])) == "there is nothing to compare"


def cases(count: int = 20) -> dict[str, CaseStatus]:
    return {f"c{number}": P for number in range(count)}


@pytest.mark.parametrize(
    ("old", "new", "decision"),
    [
        ([1.0], [3.0], "maybe slower"),
        ([1.0], [1.05], "no clear difference"),
        ([1.0], [0.5], "maybe faster"),
        ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], "maybe slower"),
        ([1.0, 1.1, 0.9, 1.0], [2.0, 2.1, 1.9, 2.0], "slower"),
        ([1.0, 1.1, 0.9, 1.0], [0.5, 0.51, 0.6, 0.55], "faster"),
        ([1.0, 1.1, 0.9, 1.0], [2.0, 2.1, 1.05, 2.0], "maybe slower"),
        ([1.0, 1.0, 1.0, 1.0], [1.02, 1.02, 1.02, 1.02], "no clear difference"),
    ],
)
def test_a_difference_in_speed_needs_several_runs(old: Sequence[float], new: Sequence[float], decision: str) -> None:
    found = compare([run(cases(), scale=scale) for scale in old], [run(cases(), letter="b", scale=scale) for scale in new])
    (speed,) = found.speed
    assert speed.decision == decision
    assert speed.low <= speed.change <= speed.high
    assert found.verdict is (Verdict.FAILED if decision == "slower" else Verdict.PASSED)


@pytest.mark.slow
def test_runs_of_the_same_server_are_rarely_called_slower() -> None:
    """Starts of one server differ by some 15 %; the rule may say ``slower`` for 1 in 70 comparisons."""
    chance = random.Random(7)

    def side(letter: str) -> list[Report]:
        return [run(cases(6), letter=letter, scale=chance.lognormvariate(0, 0.15)) for _ in range(4)]

    decisions = [compare(side("a"), side("b")).speed[0].decision for _ in range(300)]
    assert decisions.count("slower") <= 11


def test_latencies_of_different_machines_are_not_compared() -> None:
    other = replace(run(cases(), letter="b", scale=3), hardware={"cpu": "another"})
    found = compare([run(cases())], [other])
    assert found.speed == ()
    assert "latencies are not compared" in found.notes[0]


def test_sizes_of_images_are_compared_where_they_are_known() -> None:
    def with_layers(letter: str, *sizes: int) -> Report:
        layers = [ImageLayer(tier=f"tier{n}", digest=f"sha256:{size}", size_bytes=size) for n, size in enumerate(sizes)]
        return replace(run({"x": P}, letter=letter), layers=tuple(layers))

    found = compare([with_layers("a", 1000, 10)], [with_layers("b", 1000, 20)])
    assert (found.size_bytes, found.layers) == ((1010, 1020), ("tier1",))
    assert "image: 1.01 kB before, 1.02 kB now (+1.0%); changed layers: tier1" in text(found, "a", "b")
    assert compare([run({"x": P})], [with_layers("b", 1)]).size_bytes == (None, 1)


def test_a_new_case_without_a_clear_result_is_neither_as_before_nor_added() -> None:
    found = compare([run({"x": P})], [run({"x": P, "y": U, "z": P}, letter="b")])
    assert (found.same, found.added, changes(found)) == (1, 1, {"y": Change.UNDECIDED})
    assert headline(found) == "1 without a clear result"


def test_the_headline_says_why_a_comparison_is_inconclusive() -> None:
    older = replace(run({"x": P}), stages=(*run({"x": P}).stages, *run({"y": P}, stage="security").stages))
    found = compare([older], [run({"x": P}, letter="b")])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert headline(found) == "1 stage no longer run"


def test_names_of_stages_and_layers_are_shown_as_text() -> None:
    layers = (ImageLayer(tier="![x](http://evil)\x1b[31m", digest="sha256:" + "1" * 64, size_bytes=999_700),)
    older = replace(run({"x": P}, stage="[a](b)\x1b[31m"), layers=())
    found = compare(
        [replace(older, layers=(replace(layers[0], digest="sha256:" + "2" * 64),))], [replace(run({}), layers=layers)]
    )
    for made in (text(found, "a\x1b[31m", "b"), markdown(found, "a", "b")):
        assert "\x1b" not in made
        assert "image: 1 MB before, 1 MB now" in made
    assert "`![x](http://evil)" in markdown(found, "a", "b")
    assert "`[a](b)" in markdown(found, "a", "b")


@pytest.mark.parametrize("odd", [None, {}, [1], [[]], "x", math.nan, 10**400, True])
@pytest.mark.parametrize("name", ["greedy", "output_tokens_per_s", "pss_bytes"])
def test_a_report_with_odd_figures_is_shown(tmp_path: Path, name: str, odd: object) -> None:
    report = run({"x": P})
    (stage,) = report.stages
    measured = {"greedy": [[1, 2]], "output_tokens_per_s": 1.0, "pss_bytes": 3, name: odd}
    odd_case = replace(stage.cases[0], properties={"ttft_ms": odd})
    report = replace(report, stages=(replace(stage, cases=(odd_case,), metrics={"measured": measured}),))
    (tmp_path / "report.json").write_text(json.dumps(document.to_json(report)), encoding="utf-8")
    for arguments in (["show", str(tmp_path)], ["report", "compare", str(tmp_path), str(tmp_path)]):
        done = CliRunner().invoke(root, arguments, standalone_mode=False)
        assert done.exception is None, done.exception


@pytest.mark.parametrize("change", [{"started_at": "yesterday"}, {"seconds": math.inf}, {"seconds": math.nan}])
def test_a_report_with_times_that_are_none_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / "report.json").write_text(json.dumps({**document.to_json(run({"x": P})), **change}), encoding="utf-8")
    done = called(tmp_path, tmp_path)
    assert getattr(done.exception, "exit_code", None) == 2, done.exception
    assert re.search("is not a report|is not valid", str(done.exception))


def test_latencies_that_nothing_can_have_are_not_compared() -> None:
    assert compare([run(cases(), scale=1e-320)], [run(cases(), letter="b", scale=1e300)]).speed == ()


def test_problems_and_doubles_are_noted() -> None:
    broken = replace(run({"x": P}, letter="b"), problem=Problem(step="server", summary="gone"), double=True)
    notes = " ".join(compare([run({"x": P})], [broken]).notes)
    assert "a problem kept stages of the newer runs from running" in notes
    assert "the newer runs are of a test double" in notes


@pytest.mark.parametrize("hostile", ["`</code>`", "``` @all ![x](http://evil) |", "<img src=x>", "a\nb\n# c", "\x1b[31m", "`"])
def test_markdown_shows_foreign_text_as_code_only(hostile: str) -> None:
    name = f"a.py::test_x[{hostile}]"
    made = markdown(compare([run({"ok": P, name: P})], [run({"ok": P, name: F}, letter="b")]), hostile, "b")
    shown = code(hostile)
    fence = shown[: len(shown) - len(shown.lstrip("`"))]
    assert fence not in shown.strip("`").replace(fence + "`", "")
    assert "\n# c" not in made
    assert "\x1b" not in made
    outside = "".join(made.split(code(f"streaming: X [{hostile}]", 1000)))
    assert "New failures" in outside


def test_many_cases_are_counted_in_views_and_complete_in_json() -> None:
    names = [f"c{n}" for n in range(50)]
    found = compare([run(dict.fromkeys(names, P))], [run(dict.fromkeys(names, F), letter="b")])
    for view in (text, markdown):
        assert "and 30 more" in view(found, "a", "b")
    assert len(json.loads(json.dumps(to_json(found, "a", "b")))["new"]) == 50


def called(*arguments: object) -> Result:
    return CliRunner().invoke(root, ["report", "compare", *map(str, arguments)], standalone_mode=False)


def test_the_command_reads_folders_files_and_folders_of_runs(tmp_path: Path) -> None:
    old = folder.write(tmp_path / "old", run({"x": P}), {})
    for status in (F, P):
        folder.write(tmp_path / "new", run({"x": status}, letter="b"), {})
    one = called(old, next((tmp_path / "new").glob("2*/report.json")), "--json")
    assert (one.exception, one.return_value) == (None, 1)
    assert [each["case"] for each in json.loads(one.stdout)["new"]] == ["x"]
    both = called(old, tmp_path / "new", "--format", "markdown")
    assert both.return_value == 4
    assert both.stdout.startswith("### 1 flaky\n")
    assert "0 of 1 and 1 of 2 runs" in both.stdout


def test_two_formats_at_once_are_refused(tmp_path: Path) -> None:
    written = folder.write(tmp_path, run({"x": P}), {})
    assert "cannot be used together" in str(called(written, written, "--json", "--format", "markdown").exception)


def test_a_report_of_an_earlier_version_is_compared(tmp_path: Path) -> None:
    stored = json.loads(json.dumps(document.to_json(run({"x": P}))))
    for name in ("begun", "layers", "causes", "skips"):
        del stored[name]
    (tmp_path / "report.json").write_text(json.dumps(stored), encoding="utf-8")
    assert called(tmp_path, tmp_path).return_value == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"{}", b'{"format": "vllm-ci/report/v9"}', b"<xml/>", b"\xff\xfe", b"[" * 200_000, b"null"]
)
def test_a_file_that_is_no_report_is_refused_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(content)
    done = called(file, file)
    assert getattr(done.exception, "exit_code", None) == 2, done.exception
    assert "name the folder of a run" in str(done.exception)


def test_folders_without_reports_or_with_several_versions_are_refused(tmp_path: Path) -> None:
    assert "there is no report in" in str(called(tmp_path, tmp_path).exception)
    for letter in "ab":
        folder.write(tmp_path, run({"x": P}, letter=letter), {})
    assert "of 2 different commits or images" in str(called(tmp_path, tmp_path).exception)


def test_open_prints_the_address_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("click.launch", opened.append)
    written = folder.write(tmp_path, run({"x": P}), {})
    done = CliRunner().invoke(root, ["report", "open", str(written)])
    assert opened == [(written / "report.html").as_uri()]
    assert done.output == f"{opened[0]}\n"
    missing = CliRunner().invoke(root, ["report", "open", str(tmp_path / "nothing")], standalone_mode=False)
    assert "there is no report.html" in str(missing.exception)
