"""Requests of a channel are compared with what the model that serves was trained on, by its provenance."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from standin.deployment import revision
from unit.retraining import toy
from unit.retraining.conftest import Desk
from vllm_ci.cli import root
from vllm_ci.datasets.request_log import Bounds, RequestLog
from vllm_ci.deploy.target import Route
from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.retraining.store import TamperedStepError
from vllm_ci.system.home import home
from vllm_ci.targets.envoy import files, routes
from vllm_ci.targets.local.configuration import Configuration
from vllm_ci.targets.local.keys import KeyFile
from vllm_ci.targets.local.state import State, Store

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(project: Desk) -> Path:
    """Folder of a target at which a retrained model serves."""
    done = project.run().require()
    assert done.added is not None
    place = home() / "deploy" / "sample-production" / "target"
    (place / "gateway").mkdir(parents=True)
    serving = revision("a", weights=f"chat@{done.added.record.digest}")
    Store(folder=place).save(State(revisions={serving.name: serving}))
    Configuration(folder=place / "gateway").put(
        files.ROUTES, [routes.routes(Route(weights={serving.name: 100}), GatewaySettings())]
    )
    KeyFile(path=place / "keys.json").add("team-a", consent=True)
    return place


def log(folder: Path, questions: list[str]) -> None:
    for number, question in enumerate(questions):
        row = {
            "time": datetime.now(UTC).isoformat(),
            "key": "team-a",
            "consent": True,
            "request": {"messages": [{"role": "user", "content": question}]},
            "response": {"choices": [{"message": toy.row(number)["messages"][-1], "finish_reason": "stop"}]},
        }
        RequestLog(folder=folder / "requests").append(row, Bounds(), consents=lambda: True, now=datetime.now(UTC))


def looked(*words: str) -> Result:
    return CliRunner().invoke(root, ["data", "drift", "production", "--rows", "20", *words], catch_exceptions=True)


def asked(first: int) -> list[str]:
    return [toy.row(number)["messages"][0]["content"] for number in range(first, first + 30)]


def test_a_look_tells_few_requests_from_like_ones_and_those_of_another_kind(folder: Path) -> None:
    log(folder, asked(10)[:5])
    found = looked()
    assert found.exit_code == 4, found.output
    assert "5 conversations in the requests" in found.stdout
    log(folder, asked(10)[5:])
    found = looked()
    assert found.exit_code == 0, found.output
    assert found.stdout.startswith("no drift: 30 conversations of production, 40 that chat@v1 was trained on")
    log(folder, [f"{each} Поясніть, будь ласка, чому рахунок не сходиться." for each in asked(10) * 3])
    found = looked()
    assert found.exit_code == 1, found.output
    assert "vocabulary" in found.stdout
    assert "`data: {requests: [production]}` in retrain.yaml, then vllm-ci retrain" in found.stdout
    told = json.loads(looked("--json", "--model", "chat@challenger").stdout)
    assert (told["outcome"], told["model"], told["requests"]) == ("drift", "chat@v1", 60)


def test_what_is_not_known_or_was_altered_is_an_error_not_an_outcome(folder: Path, desk: Desk, tmp_path: Path) -> None:
    assert isinstance(error := looked("--model", "base@v1").exception, UsageError)
    assert "was trained on is not on this machine" in error.message
    assert isinstance(looked("--data", str(tmp_path / "none")).exception, UsageError)
    assert looked("--data", str(desk.data)).exit_code == 4
    rows = desk.results("data")[0] / "files" / "train.jsonl"
    rows.write_bytes(rows.read_bytes() + b"{}\n")
    assert isinstance(looked().exception, TamperedStepError)
    Store(folder=folder).save(State())
    assert isinstance(error := looked().exception, UsageError)
    assert "--model chat@champion" in error.remedy
