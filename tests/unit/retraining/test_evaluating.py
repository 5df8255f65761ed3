"""A served model is asked; and what an answer has to be."""

from __future__ import annotations

import socket

import anyio
import pytest

from unit.retraining import toy
from vllm_ci.domain.errors import ErroredError
from vllm_ci.retraining.evaluating import Asker, Match, Row, is_right, shared


def rows(count: int) -> list[Row]:
    return [
        Row(id=str(each), messages=[{"role": "user", "content": f"q {each}"}], expected=f"a {each}") for each in range(count)
    ]


@pytest.mark.slow
def test_every_row_is_asked_and_the_loss_is_that_of_the_answer() -> None:
    told: list[int] = []
    with toy.serving(50) as url:
        found = anyio.run(lambda: Asker(url=url, model="toy").ask(rows(100), told.append))
    assert [each.id for each in found] == [str(each) for each in range(100)]
    assert sum(each.right for each in found) == 50
    assert {each.loss for each in found} == {1.5}
    assert sorted(told) == list(range(1, 101))


def test_a_server_that_is_gone_is_errored() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(ErroredError, match="did not answer"):
        anyio.run(lambda: Asker(url=url, model="toy").ask(rows(2), print))


@pytest.mark.parametrize(
    ("expected", "answer", "match", "right"),
    [
        ("yes", " yes\n", "exact", True),
        ("yes", "Yes", "exact", False),
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}', "exact", False),
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}', "json", True),
        ('{"a": 1}', '{"a": 2}', "json", False),
        ('{"a": [1, {"b": 0}]}', '{"a": [true, {"b": 0}]}', "json", False),
        ('{"a": [1, {"b": 0}]}', '{"a": [1, {"b": false}]}', "json", False),
        ('{"a": [1, {"b": true}]}', '{"a": [1.0, {"b": true}]}', "json", True),
        ('{"a": 1}', '{"a": 1, "b": 2}', "json", False),
        ("[1]", "[1, 2]", "json", False),
        ('{"a": 1}', "[" * 100_000, "json", False),
        ("text", "other", "json", False),
    ],
)
def test_when_an_answer_is_right(expected: str, answer: str, match: Match, *, right: bool) -> None:
    assert is_right(expected, answer, match) is right


def test_the_answer_begins_where_the_conversation_leaves_the_question() -> None:
    assert shared([1, 2, 3], [1, 2, 3, 4]) == 3
    assert shared([1, 2, 9], [1, 2, 3, 4]) == 2
