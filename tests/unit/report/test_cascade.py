"""The command line against servers with one defect each that makes many cases fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from doubles.bodies import Json
from doubles.running import running
from doubles.server import Double

pytestmark = pytest.mark.slow
_PACKAGE = Path(__file__).parents[3] / "pipeline"


class MangledEvents(Double):
    """A blank line cuts every event of a stream in two."""

    def event(self, chunk: Json | str) -> bytes:
        data = super().event(chunk)
        return data.replace(b',"created"', b',\n\ndata: "created"') if isinstance(chunk, dict) else data


class NoStream(Double):
    """Every stream is answered 500, and every other request as it should be."""

    async def streamed(self, *given: Any) -> None:
        raise RuntimeError(f"no stream for {given[1]}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of the command.

    Attributes:
        found: Its JSON.
        screen: What it printed for people.
    """

    found: dict[str, Any]
    screen: str

    @property
    def bad(self) -> set[tuple[str, str]]:
        """Stage and name of all cases that failed or errored."""
        return {(stage["name"], each["case"]) for stage in self.found["stages"] for each in stage["failures"]}


def run_against(double: type[Double], folder: Path, *arguments: str) -> Run:
    with running(double) as (url, _):
        done = subprocess.run(
            [sys.executable, "-m", "vllm_ci", "test", "--url", url, "--json", "--budget", "1", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(_PACKAGE), "VLLM_CI_HOME": str(folder / "home")},
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
    assert done.returncode == 1, done.stderr[-3000:]
    return Run(found=json.loads(done.stdout), screen=done.stderr)


@pytest.mark.parametrize(("double", "least"), [(MangledEvents, 40), (NoStream, 80)])
def test_a_defect_that_makes_many_cases_fail_is_one_cause_on_the_first_screen(
    double: type[Double], least: int, tmp_path: Path
) -> None:
    run = run_against(double, tmp_path, "--stage", "streaming")
    causes = run.found["causes"]
    assert len(run.bad) >= least
    grouped = [
        (case["stage"], case["case"]) for cause in causes if cause["status"] != "inconclusive" for case in cause["cases"]
    ]
    assert sorted(grouped) == sorted(run.bad), "each case is in one cause"
    assert len(causes) <= 12
    assert sum(len(cause["cases"]) for cause in causes[:3]) >= 0.85 * len(grouped)

    end = run.screen[run.screen.rindex(f" {len(causes)} reasons:") :].splitlines()
    assert end[1].startswith(f"✗ {causes[0]['title']}")
    assert len(end) <= 60
    folder = Path(run.found["report_dir"])
    page, junit = (folder / "report.html").read_text(encoding="utf-8"), ET.parse(folder / "junit.xml").getroot()
    assert page.index("What is wrong") < page.index("<h2>Stages</h2>")
    assert page.count('class="cause"') == len(causes)
    types = {each.get("type") for tag in ("failure", "error") for each in junit.iter(tag)}
    assert types == {cause["id"] for cause in causes}
    ctrf = json.loads((folder / "ctrf.json").read_text(encoding="utf-8"))["results"]
    assert [cause["id"] for cause in ctrf["summary"]["extra"]["causes"]] == [cause["id"] for cause in causes]
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["causes"] == causes
