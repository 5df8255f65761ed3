from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from unit.stages.memory import MemoryDirectory, MemoryService, case, crashed, left
from vllm_ci.domain.changes import Changes
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.report import Case, CaseStatus, Verdict
from vllm_ci.domain.stage import AcceptedFinding, AcceptedKnown, ChangedRule, StageSpec
from vllm_ci.stages import STAGES, StageContext, security
from vllm_ci.stages.changed import matches, note, paths_for
from vllm_ci.stages.security import LOG_CASE, SecurityStage
from vllm_ci.suites import leaks, manifest
from vllm_ci.suites.known.catalogue import Catalogue
from vllm_ci.suites.known.finding import KnownFinding

COMMIT = Commit(sha="a" * 40)
IMAGE = ImageRef(repository="x", digest="sha256:" + "b" * 64)
TOMORROW = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def in_image(spec: StageSpec) -> StageContext:
    folder = MemoryDirectory()
    return StageContext(spec=spec, commit=COMMIT, image=IMAGE, source=folder, tools=folder, image_facts=folder)


@pytest.mark.parametrize("name", ["integration", "streaming", "security"])
def test_a_server_stage_runs_our_package_against_the_service(name: str) -> None:
    service = MemoryService()
    context = StageContext(
        spec=StageSpec(name=name, require=("tools", "chat")),
        commit=COMMIT,
        image=IMAGE,
        service=service,
        model="tiny",
        api_key_env="MY_KEY",
    )
    (program,) = STAGES[name].programs(context)
    assert program.argv[:5] == ("python", "-m", "pytest", "-p", "vllm_ci.suites.plugin")
    assert f"vllm_ci.suites.{name}" in program.argv
    for expected in (
        "--base-url={url.vllm}",
        "--vllm-model=tiny",
        "--vllm-api-key-env=MY_KEY",
        "--vllm-require=tools,chat",
        f"--vllm-commit={COMMIT.sha}",
        f"--vllm-image-digest={IMAGE.digest}",
    ):
        assert expected in program.argv
    assert program.secrets == ("MY_KEY",)
    assert program.needs == {"vllm": service}
    assert program.image is None


@pytest.mark.slow
def test_plugins_of_other_packages_take_no_part_in_built_in_cases_unless_options_are_given(tmp_path: Path) -> None:
    """Here a package is installed whose plugin ends each run of pytest that loads it."""
    package = tmp_path / "site/other-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n", encoding="utf-8")
    (package / "entry_points.txt").write_text("[pytest11]\nother = other\n", encoding="utf-8")
    (tmp_path / "site/other.py").write_text("raise SystemExit('the other plugin')\n", encoding="utf-8")
    (tmp_path / "test_own.py").write_text("def test_own():\n    pass\n", encoding="utf-8")

    def collected(*pytest_args: str, paths: tuple[str, ...] = ()) -> str:
        spec = StageSpec(name="integration", pytest_args=pytest_args, paths=paths)
        *_, program = STAGES["integration"].programs(
            StageContext(spec=spec, url="http://127.0.0.1:1", source=MemoryDirectory())
        )
        words = [word.replace("{out}", str(tmp_path)).replace("{in.source}", str(tmp_path)) for word in program.argv]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path / "site"), *sys.path)), **program.env}
        command = [sys.executable, *words[1:], "--collect-only"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
        return done.stdout + done.stderr

    assert "tests collected" in collected()
    assert "the other plugin" in collected("-v")
    assert "the other plugin" in collected(paths=("test_own.py",))


def test_a_foreign_server_is_named_by_its_url() -> None:
    context = StageContext(spec=StageSpec(name="integration"), url="http://elsewhere:1")
    (program,) = STAGES["integration"].programs(context)
    assert "--base-url=http://elsewhere:1" in program.argv
    assert program.needs == {}


def test_a_users_own_tests_are_a_second_program_with_the_same_options() -> None:
    context = StageContext(
        spec=StageSpec(name="integration", paths=("tests/api", "tests/x.py"), pytest_args=("-k", "fast")),
        url="http://elsewhere:1",
        source=MemoryDirectory(),
    )
    ours, own = STAGES["integration"].programs(context)
    assert "{in.source}/tests/api" in own.argv
    assert "{in.source}/tests/x.py" in own.argv
    assert own.argv[-2:] == ("-k", "fast")
    assert set(own.inputs) == {"source"}
    assert "source" not in ours.inputs
    only_own = StageContext(
        spec=StageSpec(name="integration", suite=False, paths=("t",)), url="http://e", source=MemoryDirectory()
    )
    assert [program.name for program in STAGES["integration"].programs(only_own)] == ["integration-own"]


def test_what_a_stage_cannot_do_without_is_said() -> None:
    with pytest.raises(UsageError, match="needs a server"):
        STAGES["integration"].programs(StageContext(spec=StageSpec(name="integration")))
    with pytest.raises(UsageError, match="no checkout"):
        STAGES["integration"].programs(StageContext(spec=StageSpec(name="integration", paths=("t",)), url="http://e"))
    with pytest.raises(UsageError, match="needs an image"):
        STAGES["unit"].programs(StageContext(spec=StageSpec(name="unit"), url="http://e"))


def test_the_unit_stage_runs_inside_the_image() -> None:
    ours, own = STAGES["unit"].programs(in_image(StageSpec(name="unit", paths=("tests/unit",))))
    for program in (ours, own):
        assert program.image is IMAGE
        assert program.argv[:2] == ("python", "{in.tools}/start.py")
        assert program.needs == {}
        assert set(program.inputs) == {"tools", "image", "source"}
    assert "vllm_ci.suites.unit" in ours.argv
    assert "--import-mode=append" in own.argv


@pytest.mark.anyio
async def test_a_stage_promises_its_own_cases_and_those_of_the_user() -> None:
    spec = StageSpec(name="integration", paths=("t",), promises=2)
    context = StageContext(spec=spec, url="http://e", source=MemoryDirectory())
    stage = STAGES["integration"]
    ours = left([case(f"{name}[{n}]") for name, count in manifest.promised("integration").items() for n in range(count)])
    good = await stage.result(context, [ours, left([case("x"), case("y")])])
    assert good.verdict is Verdict.PASSED
    short = await stage.result(context, [ours, left([case("x")])])
    assert short.verdict is Verdict.ERRORED
    assert "integration-own ran 1 cases, but at least 2 are required" in short.message
    chosen = StageContext(spec=StageSpec(name="integration", pytest_args=("-k", "sdk")), url="http://e")
    (first, *others) = manifest.promised("integration")
    deselected = left([case(first)], notes={"deselected": [f"{name}[{n}]" for name in others for n in range(50)]})
    assert (await stage.result(chosen, [deselected])).verdict is Verdict.PASSED
    assert (await stage.result(chosen, [left([case(first)])])).verdict is Verdict.ERRORED
    whole = StageContext(spec=StageSpec(name="integration"), url="http://e")
    assert (await stage.result(whole, [left([case("one")])])).verdict is Verdict.ERRORED
    none = await stage.result(context, [left([]), left([case("x"), case("y")])])
    assert none.verdict is Verdict.ERRORED


@pytest.mark.anyio
async def test_the_security_stage_reads_the_log_that_the_server_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret")
    stage = SecurityStage(name="security", promised={})

    async def verdict(log: str, *accept: str) -> tuple[Verdict, CaseStatus, str]:
        accepted = tuple(AcceptedFinding(id=name, reason="r", until=TOMORROW) for name in accept)
        context = StageContext(
            spec=StageSpec(name="security", accept=accepted), service=MemoryService(text=log), api_key_env="MY_KEY"
        )
        outcome = left([case("a")], also={"canaries.json": json.dumps(["canary-1"]).encode()})
        result = await stage.result(context, [outcome])
        (log_case,) = (each for each in result.cases if each.name == LOG_CASE)
        return result.verdict, log_case.status, log_case.message

    assert await verdict("INFO started") == (Verdict.PASSED, CaseStatus.PASSED, "")
    found = await verdict("INFO\nkey s3cret")
    assert found[:2] == (Verdict.FAILED, CaseStatus.FAILED)
    assert "secret-in-log" in found[2]
    assert "line 2" in found[2]
    assert "s3cret" not in found[2]
    injected = await verdict("INFO\nx\n" + leaks.forged_line("canary-1") + "\nx")
    assert injected[0] is Verdict.FAILED
    assert "log-injection" in injected[2]
    assert "prompt-in-log" not in injected[2]
    assert (await verdict("prompt: canary-1"))[0] is Verdict.FAILED
    assert (await verdict("prompt: canary-1", "prompt-in-log"))[0] is Verdict.PASSED


@pytest.mark.anyio
async def test_what_is_accepted_and_no_longer_seen_is_told() -> None:
    accept = tuple(AcceptedFinding(id=name, reason="r", until=TOMORROW) for name in ("seen", "gone"))
    context = StageContext(spec=StageSpec(name="security", accept=accept), url="http://e")
    stage = SecurityStage(name="security", promised={})
    result = await stage.result(context, [left([case("a", accepted=["seen"])])])
    assert result.verdict is Verdict.PASSED
    assert result.metrics["accepted_but_not_seen"] == ["gone"]
    assert "not found any more: gone" in result.message


HEADER = "security/test_denial.py::test_giant_headers_are_refused"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("version", "status", "findings", "gone"),
    [
        ("99.0", "passed", [], ["giant-header"]),
        ("99.0", "skipped", [], []),
        ("99.0", "failed", [{"id": "giant-header", "severity": "medium", "message": "m"}], []),
        ("0.32.0", "passed", [], []),
        ("", "passed", [], []),
    ],
)
async def test_what_is_known_of_earlier_versions_and_gone_in_a_newer_one_is_told(
    version: str, status: str, findings: list[object], gone: list[str]
) -> None:
    context = StageContext(spec=StageSpec(name="security"), url="http://e")
    cases = [case(HEADER, status, findings=findings), case("b")]
    result = await SecurityStage(name="security", promised={}).result(
        context, [left(cases, notes={"server": {"version": version, "is_vllm": True}})]
    )
    assert result.metrics.get("known_but_not_seen", []) == gone
    assert ("not found in 99.0: giant-header" in result.message) is bool(gone)


@pytest.mark.anyio
async def test_a_finding_in_the_log_says_what_is_known_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known = KnownFinding(
        engine="vllm",
        id="prompt-in-log",
        title="t",
        severity="medium",
        seen_in=(Version("1.0"),),
        affects=SpecifierSet("<2"),
        source="s",
        suggestion="s",
    )
    monkeypatch.setattr(security, "catalogue", lambda: Catalogue(findings={known.id: known}))
    accept = (AcceptedKnown(known="vllm", until=TOMORROW),)

    async def log_case(version: str) -> Case:
        context = StageContext(spec=StageSpec(name="security", accept=accept), service=MemoryService(text="x canary-1 x"))
        also = {"canaries.json": b'["canary-1"]'}
        outcome = left([case("a")], also=also, notes={"server": {"version": version, "is_vllm": True}})
        result = await SecurityStage(name="security", promised={}).result(context, [outcome])
        return next(each for each in result.cases if each.name == LOG_CASE)

    assert (await log_case("1.0")).status is CaseStatus.PASSED
    other = await log_case("2.0")
    assert other.status is CaseStatus.FAILED
    assert "known of vLLM 1.0, not of 2.0" in other.message


@pytest.mark.anyio
async def test_a_key_that_our_own_tests_wrote_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = SecurityStage(name="security", promised={})
    context = StageContext(spec=StageSpec(name="security"), service=MemoryService(text=""), api_key_env="MY_KEY")
    also = {"canaries.json": b'["canary-1"]', "junit.xml": b"<x>s3cret</x>"}
    unknown = await stage.result(context, [left([case("a")], also=also)])
    assert unknown.verdict is Verdict.ERRORED
    monkeypatch.setenv("MY_KEY", "s3cret")
    result = await stage.result(context, [left([case("a")], also=also)])
    assert result.verdict is Verdict.FAILED
    assert any("secret-in-artefact:junit.xml" in each.message for each in result.cases)


@pytest.mark.anyio
async def test_a_log_cannot_be_judged_without_the_words_that_were_sent() -> None:
    context = StageContext(spec=StageSpec(name="security"), service=MemoryService(text=""))
    result = await SecurityStage(name="security", promised={}).result(context, [crashed(137)])
    assert result.verdict is Verdict.ERRORED


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("vllm/entrypoints/**", "vllm/entrypoints/openai/api.py", True),
        ("vllm/entrypoints", "vllm/entrypoints/openai/api.py", True),
        ("vllm/entry", "vllm/entrypoints/api.py", False),
        ("vllm/*.py", "vllm/envs.py", True),
        ("vllm/*.py", "vllm/a/envs.py", False),
        ("**/*.py", "envs.py", True),
        ("**/*.py", "a/b/envs.py", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("a.c", "abc", False),
    ],
)
def test_patterns_of_changed_files(pattern: str, path: str, expected: bool) -> None:
    assert matches(path, pattern) is expected


def test_changes_choose_tests_each_once() -> None:
    spec = StageSpec(
        name="unit",
        paths=("tests/always",),
        changed=(
            ChangedRule(changed=("vllm/**",), run=("tests/core", "tests/always")),
            ChangedRule(changed=("docs/**",), run=("tests/docs",)),
        ),
    )
    assert paths_for(spec, Changes(files=("vllm/a.py", "README.md"))) == ("tests/always", "tests/core")
    assert paths_for(spec, Changes()) == ("tests/always",)


@pytest.mark.parametrize("changes", [None, Changes(unknown="the server does not answer")])
def test_where_changes_are_not_known_the_tests_of_every_rule_run_and_the_report_says_why(changes: Changes | None) -> None:
    rules = (ChangedRule(changed=("vllm/**",), run=("tests/core",)), ChangedRule(changed=("docs/**",), run=("tests/docs",)))
    spec = StageSpec(name="unit", changed=rules)
    assert paths_for(spec, changes) == ("tests/core", "tests/docs")
    said = note(spec, changes)
    assert said is not None
    assert said.status is CaseStatus.SKIPPED
    assert "all 2 rules were run" in said.message


def test_rules_of_which_none_matches_are_said_in_the_report_and_rules_that_do_are_not() -> None:
    spec = StageSpec(name="unit", changed=(ChangedRule(changed=("vllm/**",), run=("tests/core",)),))
    said = note(spec, Changes(files=("README.md",), base="main (abc)"))
    assert said is not None
    assert "1 files that differ from main (abc)" in said.message
    assert note(spec, Changes(files=("vllm/a.py",), base="main")) is None
    assert note(StageSpec(name="unit"), None) is None


@pytest.mark.anyio
async def test_a_unit_stage_whose_rules_match_nothing_passes_with_a_visible_skip() -> None:
    rules = (ChangedRule(changed=("vllm/**",), run=("tests/core",)),)
    context = dataclasses.replace(
        in_image(StageSpec(name="unit", changed=rules)), changed=Changes(files=("README.md",), base="main (abc)")
    )
    stage = STAGES["unit"]
    (program,) = stage.programs(context)
    assert program.name == "unit"
    ours = [case(f"{name}[{n}]") for name, count in manifest.promised("unit").items() for n in range(count)]
    result = await stage.result(context, [left(ours)])
    assert result.verdict is Verdict.PASSED
    assert [each.name for each in result.cases if each.status is CaseStatus.SKIPPED] == ["stages.unit.changed"]


@pytest.mark.anyio
async def test_a_unit_stage_that_ran_nothing_is_errored_and_says_that_no_rule_matched() -> None:
    rules = (ChangedRule(changed=("vllm/**",), run=("tests/core",)),)
    spec = StageSpec(name="unit", suite=False, changed=rules)
    context = dataclasses.replace(in_image(spec), changed=Changes(files=("README.md",), base="main (abc)"))
    assert STAGES["unit"].programs(context) == ()
    result = await STAGES["unit"].result(context, [])
    assert result.verdict is Verdict.ERRORED
    assert "no rule matches the 1 files" in result.message
