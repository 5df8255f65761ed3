"""A stage promises as many cases as its package holds: a case that gets lost on the way is noticed."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from pathlib import Path

import pytest

import vllm_ci.suites
from vllm_ci.stages import STAGES, integration, security, streaming, unit

SUITES = Path(vllm_ci.suites.__file__).parent
PROMISED = {stage.name: stage.promises for stage in (unit.STAGE, integration.STAGE, streaming.STAGE, security.STAGE)}


class Collected:
    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.names = [f"{item.path}::{item.name}" for item in session.items]


def collected(folder: Path, root: Path, plugin: str) -> list[str]:
    """Node ids of the cases in a folder."""
    found = Collected()
    arguments = ["--collect-only", "-q", "-p", f"vllm_ci.suites.{plugin}", "-p", "no:xdist", "-p", "no:cacheprovider"]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.main([*arguments, "-c", "/dev/null", "--rootdir", str(root), str(folder)], plugins=[found])
    return found.names


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_promises_what_its_package_holds(name: str, tmp_path: Path) -> None:
    count = len(collected(SUITES / name, tmp_path, "inside" if name == "unit" else "plugin"))
    assert PROMISED[name] <= count, f"stages/{name}.py promises {PROMISED[name]} cases, there are {count}"
    assert PROMISED[name] >= 0.8 * count, f"stages/{name}.py promises only {PROMISED[name]} of {count} cases"


def test_the_documentation_counts_the_cases_of_every_stage(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs/suites.md").read_text(encoding="utf-8")
    said = {name: int(count) for name, count in re.findall(r"^\| `(\w+)` \| (\d+)", text, re.MULTILINE)}
    plugins = {name: "inside" if name == "unit" else "plugin" for name in STAGES}
    assert said == {name: len(collected(SUITES / name, tmp_path, plugins[name])) for name in STAGES}


def test_all_suites_at_once_are_those_that_need_only_a_url(tmp_path: Path) -> None:
    folders = {name.rpartition("::")[0].split("/")[-2] for name in collected(SUITES, tmp_path, "plugin")}
    assert folders == {"integration", "streaming", "security"}
