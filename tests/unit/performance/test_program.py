"""The program that measures one start of a server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.generation import Generation, Piece
from doubles.running import running
from doubles.server import Double
from doubles.wire import Connection, Response, as_json
from vllm_ci.performance import program
from vllm_ci.performance.greedy import TOKENS
from vllm_ci.performance.server import served
from vllm_ci.suites.reach import UnreachableError

pytestmark = pytest.mark.slow


class NoGreedyAnswers(Double):
    """Answers of the length that greedy ones have are empty."""

    def whole(self, asked: Asked, name: str, created: int, answers: Sequence[tuple[Generation, list[Piece]]]) -> Json:
        found = super().whole(asked, name, created, answers)
        return {**found, "choices": []} if asked.max_tokens == TOKENS else found


def measured(url: str, out: Path, *more: str) -> int:
    given = ["--url", url, "--out", str(out), "--requests", "2", "--rounds", "1", "--warm-up", "1", "--concurrency", "1"]
    return program.main([*given, *more])


def test_a_server_whose_greedy_answers_are_wrong_is_measured_without_them(tmp_path: Path) -> None:
    with running(NoGreedyAnswers) as (url, _):
        code = measured(url, tmp_path, "--greedy")
    assert json.loads((tmp_path / "greedy.json").read_text())["answers"] == []
    assert len(json.loads((tmp_path / "measurement.json").read_text())["rounds"]) == 1
    assert code == 0


def test_an_interrupted_warm_up_ends_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Interrupted:
        interrupted = True

    def measure(*arguments: Any, **_: Any) -> Interrupted:
        calls.append(arguments)
        return Interrupted()

    monkeypatch.setattr(program, "measure", measure)
    with running(Double) as (url, _):
        assert measured(url, tmp_path) == 3
    assert len(calls) == 1


class NoLongPrompts(Double):
    """Refuses prompts that are longer than a few words."""

    async def completed(self, asked: Asked, body: Json, connection: Connection) -> Response | None:
        if sum(map(len, asked.prompts)) > 30:
            return as_json({"error": {"message": "too long \x1b[31m"}}, 500)
        return await super().completed(asked, body, connection)


def test_a_server_that_refuses_the_first_long_prompt_is_said_in_one_message() -> None:
    with running(NoLongPrompts) as (url, _), pytest.raises(UnreachableError, match=r"cannot be made: .* 500") as caught:
        served(url)
    assert "\x1b" not in str(caught.value)


class Watched(Double):
    """Remembers what its requests asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: set[str] = set()

    async def completed(self, asked: Asked, body: Json, connection: Connection) -> Response | None:
        self.fields |= set(body)
        return await super().completed(asked, body, connection)


def test_a_server_is_asked_for_nothing_that_a_measurement_does_not_need(tmp_path: Path) -> None:
    with running(Watched) as (url, double):
        assert measured(url, tmp_path, "--greedy") == 0
        assert isinstance(double, Watched)
        needless = {"logprobs", "prompt_logprobs", "tools", "response_format", "bad_words", "logit_bias", "n", "echo"}
        assert not needless & double.fields, "vLLM compiles for ten seconds when it is first asked for log probabilities"
        assert {"ignore_eos", "return_token_ids"} <= double.fields
        facts = served(url).facts
    assert facts.can("ignore_eos")
    assert facts.can("tokenize")
    assert facts.can("metrics")
    assert not facts.can("logprobs")
