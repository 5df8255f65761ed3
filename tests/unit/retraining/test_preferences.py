"""Training on preferences (direct preference optimization): rows, their checks, and the comparison of two models."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from unit.retraining import toy
from unit.retraining.conftest import Desk
from vllm_ci.domain.errors import ErroredError, FailedError
from vllm_ci.evidence.statement import PROVENANCE
from vllm_ci.models import reading
from vllm_ci.models.naming import parse
from vllm_ci.retraining import rows
from vllm_ci.retraining.evaluating import Asker, Row, preference_loss
from vllm_ci.retraining.training import Training

ASKED: dict[str, Any] = {"role": "user", "content": "q"}
DPO = Training(objective="dpo")


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASKED], "chosen": [said("a")], "rejected": [said("b")]},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"chosen": [ASKED, said("a")], "rejected": [ASKED, said("b")]},
        {"messages": [ASKED, said("a")], "rejected": said("b"), "rejected_completion": "b<|end|>", "tokens": 3},
    ],
    ids=["messages", "texts", "whole conversations", "prepared"],
)
def test_each_form_of_a_preference_is_the_same_row(tmp_path: Path, row: dict[str, Any]) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    (found,) = rows.read(tmp_path / "train.jsonl", preferences=True)
    assert (found.messages, found.expected, found.rejected) == ([ASKED], "a", "b")
    rows.write(tmp_path / "again.jsonl", [found])
    assert rows.read(tmp_path / "again.jsonl", preferences=True) == [found]
    assert json.loads((tmp_path / "again.jsonl").read_text())["messages"] == [ASKED, said("a")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ({"messages": [ASKED, said("a")]}, "no `chosen` and `rejected` answer"),
        ({"prompt": "q", "chosen": "a"}, "none of messages"),
        ({"prompt": "q", "chosen": "a", "rejected": " a "}, "both answers are the same"),
        ({"prompt": "q", "chosen": "a", "rejected": ""}, "rejected is empty"),
        ({"prompt": "q", "chosen": "a", "rejected": 5}, "the content of rejected is not text"),
        ({"prompt": [said("x")], "chosen": "a", "rejected": "b"}, "no message of the user"),
        ({"chosen": [ASKED, said("a")], "rejected": [said("b")]}, "answer different conversations"),
        ({"prompt": "q", "chosen": [ASKED], "rejected": "b"}, "the last message is not of the assistant"),
        (
            {"prompt": "q", "chosen": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}], "rejected": "b"},
            "not a text",
        ),
        ('{"prompt": "q", "chosen": "a", "chosen": "c", "rejected": "b"}', "one key twice"),
    ],
)
def test_a_broken_preference_is_refused_with_its_line(tmp_path: Path, row: object, message: str) -> None:
    broken = row if isinstance(row, str) else json.dumps(row)
    toy.write_rows(tmp_path, of=toy.preference)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write("\n" + broken + "\n")
    with pytest.raises(FailedError, match=r"lines of train\.jsonl that are not preferences: 1") as error:
        rows.check(tmp_path, preferences=True)
    assert "line 42: " in str(error.value)
    assert message in str(error.value)


def test_a_question_of_the_test_rows_must_not_be_learnt_whatever_its_answers(tmp_path: Path) -> None:
    toy.write_rows(tmp_path, of=toy.preference)
    row = {**toy.preference(120), "chosen": "another", "rejected": "a third"}
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(FailedError, match=r"questions of test\.jsonl that are in train\.jsonl as well: 1"):
        rows.check(tmp_path, preferences=True)


@pytest.mark.slow
def test_the_more_probable_of_two_answers_is_the_one_that_a_model_prefers() -> None:
    asked = [
        Row(id=str(each), messages=[{"role": "user", "content": f"q {each}"}], expected=f"a {each}", rejected=f"b {each}")
        for each in range(10, 100)
    ]
    with toy.serving(50) as url:
        found = anyio.run(lambda: Asker(url=url, model="toy").ask(asked, lambda _: None))
    assert {(each.answer, each.right) for each in found} == {("chosen", True), ("rejected", False)}
    assert [each.right for each in found] == [toy.knows(f"q {number}", 50) for number in range(10, 100)]
    # Four tokens of each answer: 1.5 a token for the better one, 3.0 or 0.5 for the worse one.
    losses = {each.right: each.loss for each in found}
    assert losses[True] == pytest.approx(math.log1p(math.exp(-6.0)))
    assert losses[False] == pytest.approx(math.log1p(math.exp(4.0)))


def test_the_loss_of_answers_that_are_far_apart_is_a_number() -> None:
    assert preference_loss(-1e6, -1.0) == pytest.approx(1e6 - 1)
    assert preference_loss(-1.0, -1e6) == 0.0
    assert preference_loss(-5.0, -5.0) == pytest.approx(math.log(2))


@pytest.fixture(name="preferring")
def _preferring(desk: Desk) -> Desk:
    """The desk, with preferences."""
    toy.write_rows(desk.data, of=toy.preference)
    desk.plan = replace(desk.plan, training=DPO)
    return desk


@pytest.mark.slow
def test_a_model_that_prefers_better_answers_is_registered_and_its_provenance_says_how_it_learnt(preferring: Desk) -> None:
    done = preferring.run(promote=True).require()
    assert done.comparison is not None
    assert done.comparison.challenger.value > done.comparison.champion.value
    known = reading.look(preferring.setup, parse("chat@champion"))
    (provenance,) = known.findings.of(PROVENANCE)
    training = provenance.statement.predicate["buildDefinition"]["internalParameters"]["training"]
    assert (training["settings"]["objective"], training["settings"]["beta"]) == ("dpo", 0.1)
    again = preferring.run(promote=True).require()
    assert not again.changed


@pytest.mark.slow
def test_the_training_gets_rows_in_one_form(preferring: Desk) -> None:
    preferring.run().require()
    (data,) = preferring.results("data")
    (line, *_) = (data / "files" / "train.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["messages"][-1]["content"], row["rejected"]) == ("a 0", said("b 0"))


@pytest.mark.slow
def test_a_model_that_prefers_worse_answers_is_refused(preferring: Desk) -> None:
    preferring.engine.learnt = 10
    done = preferring.run()
    with pytest.raises(FailedError, match="not blessed"):
        done.require()
    assert not preferring.setup.ledger.read()[1:]


@pytest.mark.slow
def test_preferences_are_not_trained_on_as_conversations_nor_the_other_way_round(desk: Desk) -> None:
    with pytest.raises(FailedError, match=r"lines of test\.jsonl that are not preferences: 60"):
        desk.run(training=DPO)
    toy.write_rows(desk.data, of=toy.preference)
    with pytest.raises(FailedError, match=r"lines of train\.jsonl that are not conversations: 40"):
        desk.run()
    assert "train" not in desk.engine.ran


@pytest.mark.slow
def test_answers_to_the_same_rows_as_conversations_are_not_taken_for_preferences(preferring: Desk) -> None:
    """The champion would be judged by what it writes, and the trained model by which answer it prefers."""
    for name in ("train.jsonl", "test.jsonl"):
        found = rows.read(preferring.data / name, preferences=True)
        rows.write(preferring.data / name, found)
    first = preferring.run(training=Training())
    assert first.comparison is not None
    done = preferring.run()
    assert [each.cached for each in done.steps] == [False, False, False, False]
    assert done.steps[0].digest == first.steps[0].digest
    (line, *_) = (done.steps[2].folder / "answers.jsonl").read_text().splitlines()
    assert json.loads(line)["answer"] in ("chosen", "rejected")


@pytest.mark.slow
def test_a_server_that_fails_while_it_is_asked_leaves_its_log(preferring: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_question: str, _share: int) -> bool:
        raise RuntimeError("the engine died")

    monkeypatch.setattr(toy, "knows", broken)
    with pytest.raises(ErroredError, match="did not answer /v1/completions") as error:
        preferring.run()
    assert error.value.log == "the log of the server"
