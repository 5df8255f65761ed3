"""The budget of the stages comes from a flag, the environment, the file or the default, in this order."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from vllm_ci.cli import options
from vllm_ci.cli import run as commands
from vllm_ci.cli.foreign import open_foreign

FILE = "version: 1\nname: x\nstages:\n  integration: {budget_s: 30}\n"


def budgets(*arguments: str) -> dict[str, float]:
    """Of the stages against a server, as a run of a project gets them."""
    context = commands.run.make_context("run", list(arguments))
    specs = options.loaded(context).config.stages.specs()
    return {name: spec.budget_s for name, spec in specs.items() if name not in ("unit", "grpc", "performance")}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm-ci.yaml").write_text(FILE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("project")
def test_flag_environment_file_and_default_in_this_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert budgets() == {"integration": 30, "streaming": 90, "security": 90}
    monkeypatch.setenv("VLLM_CI_BUDGET", "45")
    assert set(budgets().values()) == {45}
    assert set(budgets("--budget", "60").values()) == {60}
    assert set(budgets("--budget", "60", "--deep").values()) == {0}


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("given", "deep"), [("1", True), ("0", False)])
def test_deep_comes_from_the_environment_too(monkeypatch: pytest.MonkeyPatch, given: str, deep: bool) -> None:
    monkeypatch.setenv("VLLM_CI_DEEP", given)
    assert budgets() == (
        {"integration": 0, "streaming": 0, "security": 0} if deep else budgets("--budget", "90") | {"integration": 30}
    )


@pytest.mark.parametrize(("arguments", "expected"), [([], 90), (["--budget", "5"], 5), (["--deep"], 0)])
def test_a_server_of_somebody_else_without_a_configuration_has_them_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: float
) -> None:
    monkeypatch.chdir(tmp_path)
    context = commands.test.make_context("test", ["--url", "http://127.0.0.1:9", *arguments])
    found = open_foreign(context, "http://127.0.0.1:9", "", ())
    assert {spec.budget_s for spec in found.stages} == {expected}


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("given", ["-1", "soon"])
def test_a_budget_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(click.BadParameter) as refused:
        budgets(f"--budget={given}")
    assert refused.value.param is not None
    assert refused.value.param.name == "budget"
