"""`vllm-ci cache` counts and prunes models and results of retrainings, and asks before it deletes what is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from standin.deployment import revision
from unit.retraining.conftest import Desk
from vllm_ci.cli import root
from vllm_ci.models import pulling
from vllm_ci.models.naming import parse
from vllm_ci.retraining import store
from vllm_ci.system import filelock
from vllm_ci.system.home import home
from vllm_ci.targets.local.state import State, Store

pytestmark = pytest.mark.slow


@pytest.fixture
def tree(project: Desk) -> Path:
    """A project with a retrained model, whose files were pulled; nothing was used for a month."""
    assert project.run().require().added is not None
    found = pulling.pull(project.setup, parse("chat@challenger")).folder
    _age(home())
    return found


def _age(folder: Path) -> None:
    for each in [folder, *folder.rglob("*")]:
        os.utime(each, (1e9, 1e9))


def pruned(*words: str, **more: str) -> Result:
    return CliRunner().invoke(root, ["cache", "prune", *words], catch_exceptions=False, **more)  # type: ignore[arg-type]


def remaining(desk: Desk) -> list[str]:
    found = [f"{step}" for step in ("data", "train", "answers") for _ in desk.results(step)]
    return [*found, *(["base"] if len(list((home() / "models" / "trees").glob("[!.]*/"))) > 1 else [])]


def test_what_an_alias_names_stays_unless_somebody_agrees_and_all_can_be_made_again(
    desk: Desk, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {
        each["name"]: each["count"]
        for each in json.loads(CliRunner().invoke(root, ["cache", "show", "--json"]).stdout)["kinds"]
    }
    assert (shown["models"], shown["retraining"]) == (2, 4)
    assert "would delete" in pruned("--dry-run").stdout
    assert remaining(desk) == ["data", "train", "answers", "answers", "base"]
    told = json.loads(pruned("--json").stdout)
    assert len(told["models"]) == 1
    assert len(told["retraining"]) == 3
    assert list(told["kept"].values()) == [["chat@challenger"], ["chat@challenger"]]
    assert remaining(desk) == ["data"]
    assert tree.is_dir()
    assert desk.run().decision is not None

    _check_question(desk, tree, monkeypatch)


def _check_question(desk: Desk, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is named is deleted after the question."""
    _age(home())
    monkeypatch.setattr("vllm_ci.cli.cache._asks", lambda: True)
    assert "named by chat@challenger" in pruned(input="n\n").stdout
    assert tree.is_dir()
    assert f"deleted {tree}" in pruned(input="y\n").stdout
    assert not tree.exists()
    blobs = [each for each in (home() / "models" / "blobs" / "sha256").iterdir() if not each.name.startswith(".")]
    assert blobs == []
    assert pulling.pull(desk.setup, parse("chat@challenger")).folder == tree


def test_what_a_deployment_or_a_run_names_and_what_a_process_uses_stays(desk: Desk, tree: Path) -> None:
    base = next(each for each in tree.parent.iterdir() if each.is_dir() and each != tree and not each.name.startswith("."))
    place = home() / "deploy" / "other-staging" / "target"
    place.mkdir(parents=True)
    serving = revision("a", weights=f"chat@sha256:{base.name}")
    Store(folder=place).save(State(revisions={serving.name: serving}))
    run = desk.folder / ".vllm-ci" / "runs" / "20260101-1"
    run.mkdir(parents=True)
    (run / "report.json").write_text(json.dumps({"model": {"digest": f"sha256:{tree.name}"}}), encoding="utf-8")
    (train,), (data,) = desk.results("train"), desk.results("data")
    store.read(data, step="data", key=data.name)  # it was used just now
    with filelock.hold(train.with_name(f".{train.name}.lock")):  # somebody makes it
        kept = json.loads(pruned("--json").stdout)["kept"]
    assert remaining(desk) == ["data", "train", "base"]
    assert kept == {
        str(base): ["deployment other-staging"],
        str(tree): ["chat@challenger", "run 20260101-1"],
        str(train): [],
    }
    _age(home())
    with subprocess.Popen([sys.executable, "-c", "input()", str(tree)], stdin=subprocess.PIPE) as server:
        told = json.loads(pruned("--json", "--yes").stdout)
        server.communicate(b"\n")
    assert told["kept"][str(tree)][0] == f"process {server.pid}"
    assert not base.exists()
    assert tree.is_dir()
