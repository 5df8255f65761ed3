"""docs/api.md is run: every example, on the memory engine; the reference is what the docstrings say."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import vllm_ci
from standin.repository import repository
from vllm_ci import MemoryEngine, Verdict, run_pipeline
from vllm_ci.cli import api_reference
from vllm_ci.stages.installed import GROUP

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)(?: ([\w./-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(kind, name, text) for kind, name, text in BLOCK.findall(PAGE)]
ANSWERS = {"/v1/completions": {"choices": [{"text": "yes"}]}}


def blocks(kind: str, name: str) -> list[Any]:
    found = [
        pytest.param(text, id=f"{number}") for number, (of, named, text) in enumerate(BLOCKS) if (of, named) == (kind, name)
    ]
    assert found, f"docs/api.md has no example of {kind} {name}"
    return found


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path.parent / "home"))
    monkeypatch.setenv("LOAD_TEST_TOKEN", "token")


def run(folder: Path) -> vllm_ci.Report:
    return anyio.run(partial(run_pipeline, folder, engine=MemoryEngine(answers=ANSWERS).on("smoke", vllm_ci.passes("a", "b"))))


@pytest.mark.parametrize("text", blocks("python", "ci/pipeline.py"))
def test_every_pipeline_runs_and_passes(tmp_path: Path, text: str) -> None:
    repository(tmp_path, text)
    report = run(tmp_path)
    assert report.verdict is Verdict.PASSED, report
    assert report.stages


@pytest.mark.parametrize("text", blocks("yaml", "vllm-ci.yaml"))
def test_every_configuration_runs_and_passes(tmp_path: Path, text: str) -> None:
    repository(tmp_path, config=text)
    report = run(tmp_path)
    assert report.verdict is Verdict.PASSED, report
    assert {"smoke", "lint", "load"} <= {stage.name for stage in report.stages}


@pytest.mark.parametrize("text", blocks("python", "test_pipeline.py"))
def test_every_test_of_a_pipeline_passes(tmp_path: Path, text: str) -> None:
    repository(tmp_path, test_pipeline=text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_pipeline.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


@pytest.mark.parametrize("text", blocks("python", ""))
def test_every_script_runs(tmp_path: Path, text: str) -> None:
    """As a notebook runs it: `await` is allowed at the top."""
    repository(tmp_path)
    code = compile(text, "<ipython-input>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    async def cell() -> None:
        values: dict[str, Any] = {}
        found = eval(code, values)
        if inspect.isawaitable(found):
            await found

    anyio.run(cell)


@pytest.mark.parametrize("text", blocks("toml", ""))
def test_the_entry_point_s_group_is_the_one_that_is_read(text: str) -> None:
    assert list(tomllib.loads(text)["project"]["entry-points"]) == [GROUP]


def test_every_example_is_of_a_kind_that_is_run() -> None:
    known = {("python", "ci/pipeline.py"), ("python", "test_pipeline.py"), ("python", "")}
    assert {(kind, name) for kind, name, _ in BLOCKS} == known | {("yaml", "vllm-ci.yaml"), ("toml", "")}


def test_the_reference_is_what_the_docstrings_say() -> None:
    assert (ROOT / "docs" / "api-reference.md").read_text() == api_reference.text(), (
        "write it anew: python -m vllm_ci.cli.api_reference > docs/api-reference.md"
    )


def test_every_public_name_is_in_the_reference() -> None:
    headings = re.findall(r"^## (\w+)$", api_reference.text(), re.MULTILINE)
    assert headings == [name for name in vllm_ci.__all__ if name != "__version__"]


def test_the_example_s_own_tests_pass_in_a_checkout_of_it(tmp_path: Path) -> None:
    """Its pipeline on the memory engine, as its README says."""
    files = {
        str(path.relative_to(ROOT / "examples" / "own-pipeline")): path.read_text()
        for path in (ROOT / "examples" / "own-pipeline").rglob("*")
        if path.is_file() and path.suffix in (".py", ".yaml")
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    repository(tmp_path, files["ci/pipeline.py"], config=files["vllm-ci.yaml"])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_pipeline.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
