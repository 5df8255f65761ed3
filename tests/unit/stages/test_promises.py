"""A stage promises exactly the cases that its package holds: one that gets lost on the way is noticed."""

from __future__ import annotations

import contextlib
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

import vllm_ci.suites
from doubles.running import running
from doubles.server import Double
from unit.stages.memory import MemoryDirectory, case, left
from vllm_ci.domain.program import Outcome
from vllm_ci.domain.report import Case, CaseStatus, StageResult, Verdict
from vllm_ci.domain.stage import StageSpec
from vllm_ci.stages import STAGES, StageContext, promises
from vllm_ci.stages.reading import Reading
from vllm_ci.suites import manifest
from vllm_ci.suites.plugins.reporter import case_name

pytest_plugins = "pytester"

SUITED = tuple(name for name in STAGES if name != "performance")
"""Stages with a suite of cases; a comparison has one case for each metric."""
SUITES = Path(vllm_ci.suites.__file__).parent
ERRORS = "integration/test_errors.py::test_a_bad_field_is_refused_and_named"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Collected:
    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.names = [f"{item.path}::{item.name}" for item in session.items]


def collected(folder: Path, root: Path, plugin: str, *given: str) -> list[str]:
    """Node ids of the cases in a folder."""
    found = Collected()
    arguments = ["--collect-only", "-q", "-p", f"vllm_ci.suites.{plugin}", "-p", "no:xdist", "-p", "no:cacheprovider"]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.main([*arguments, *given, "-c", "/dev/null", "--rootdir", str(root), str(folder)], plugins=[found])
    return found.names


def collected_of(name: str, root: Path) -> list[str]:
    """Node ids of the cases of a suite."""
    given = ("--vllm-grpc", "127.0.0.1:1") if name == "grpc" else ()
    return collected(SUITES / name, root, "inside" if name == "unit" else "plugin", *given)


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITED)
def test_the_manifest_lists_exactly_what_its_package_holds(name: str, tmp_path: Path) -> None:
    found = Counter(manifest.function_of(case_name(each)) for each in collected_of(name, tmp_path))
    assert dict(found) == manifest.promised(name), "run: PYTHONPATH=pipeline:tests python -m doubles.manifest"


def reported(suite: str, keep: Callable[[str], bool] = lambda _: True, **notes: object) -> Outcome:
    """A report of a suite whose cases all passed, as far as they are kept."""
    names = [f"{name}[{n}]" for name, count in manifest.promised(suite).items() for n in range(count)]
    return left([case(name) for name in names if keep(name)], notes=notes)


def without(lost: str) -> Callable[[str], bool]:
    return lambda name: not name.startswith(lost)


async def judged(suite: str, outcome: Outcome, *arguments: str) -> StageResult:
    context = StageContext(spec=StageSpec(name=suite, pytest_args=arguments), url="http://e")
    return await STAGES[suite].result(context, [outcome])


@pytest.mark.anyio
@pytest.mark.parametrize("suite", ["integration", "streaming", "security"])
async def test_a_whole_suite_passes_and_one_that_lost_anything_is_errored(suite: str) -> None:
    functions = list(manifest.promised(suite))
    assert (await judged(suite, reported(suite))).verdict is Verdict.PASSED
    for lost in (f"{functions[0]}[0]", functions[-1], functions[0].partition("::")[0]):
        found = await judged(suite, reported(suite, without(lost)))
        assert found.verdict is Verdict.ERRORED
        assert functions[0 if lost != functions[-1] else -1] in found.message


@pytest.mark.anyio
async def test_one_parameter_that_is_gone_is_noticed_and_counted() -> None:
    found = await judged("integration", reported("integration", lambda name: name != f"{ERRORS}[26]"))
    assert found.verdict is Verdict.ERRORED
    assert f"{ERRORS} (1 missing)" in found.message
    assert f"1 of the {sum(manifest.promised('integration').values())} cases" in found.message


@pytest.mark.anyio
async def test_what_the_user_deselected_is_not_missing() -> None:
    names = [f"{ERRORS}[{n}]" for n in range(manifest.promised("integration")[ERRORS])]
    assert (
        await judged("integration", reported("integration", without(ERRORS), deselected=names), "-k", "x")
    ).verdict is Verdict.PASSED
    few = await judged("integration", reported("integration", without(ERRORS), deselected=names[1:]), "-k", "x")
    assert few.verdict is Verdict.ERRORED, "arguments of the user's are no reason to count nothing"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "lost"),
    [
        ([], ""),
        ([f"--ignore={SUITES}/integration/test_models.py"], "integration/test_models.py::"),
        (["-p", "unit.stages.meddling"], "integration/test_chat.py::test_says_why_it_ended"),
    ],
    ids=["chosen-by-k", "a-file-is-ignored", "another-plugin-takes-one-out"],
)
def test_pytest_itself_tells_what_was_deselected_and_what_was_lost(
    pytester: pytest.Pytester, arguments: list[str], lost: str
) -> None:
    with running(Double) as (url, _):
        pytester.runpytest(
            *("-p", "vllm_ci.suites.plugin", "-p", "no:xdist", "-p", "no:cacheprovider", "-W", "ignore"),
            *("--pyargs", "vllm_ci.suites.integration", "-c", "/dev/null", "--rootdir", str(pytester.path)),
            *("--base-url", url, "--vllm-report", "out", "-k", "(test_models or test_chat) and not adapter", *arguments),
        )
    document = (pytester.path / "out/cases.json").read_bytes()
    assert {each["status"] for each in json.loads(document)["cases"]} == {"passed"}
    outcome = Outcome(exit_code=0, seconds=1.0, output=MemoryDirectory({"cases.json": document}), log="")
    found = anyio.run(judged, "integration", outcome, "-k", "(test_models or test_chat) and not adapter", *arguments)
    assert found.verdict is (Verdict.ERRORED if lost else Verdict.PASSED), found.message
    assert lost in found.message


@pytest.mark.slow
def test_the_documentation_counts_the_cases_of_every_stage(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs/suites.md").read_text(encoding="utf-8")
    said = {name: int(count) for name, count in re.findall(r"^\| `(\w+)` \| (\d+)", text, re.MULTILINE)}
    assert said == {name: len(collected_of(name, tmp_path)) for name in SUITED}


@pytest.mark.slow
def test_all_suites_at_once_are_those_that_need_only_a_url(tmp_path: Path) -> None:
    folders = {name.rpartition("::")[0].split("/")[-2] for name in collected(SUITES, tmp_path, "plugin")}
    assert folders == {"integration", "streaming", "security"}


def _read(ran: int, skipped: int) -> Reading:
    passed = tuple(Case(name=f"a{n}", status=CaseStatus.PASSED) for n in range(ran))
    left_out = tuple(Case(name=f"b{n}", status=CaseStatus.SKIPPED, message="the server lacks chat") for n in range(skipped))
    return Reading(cases=(*passed, *left_out))


def test_a_server_that_offers_nearly_nothing_is_no_pass() -> None:
    found = promises.enough(_read(4, 136), "integration", 0.1)
    assert "only 4 of 140 cases" in found.trouble
    assert "136 skipped: the server lacks chat" in found.trouble


@pytest.mark.parametrize(("ran", "skipped", "share"), [(14, 126, 0.1), (4, 136, 0.0), (0, 0, 0.5)])
def test_enough_cases_are_no_trouble(ran: int, skipped: int, share: float) -> None:
    assert not promises.enough(_read(ran, skipped), "integration", share).trouble
