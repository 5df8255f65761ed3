"""Drift is found where it is, and nowhere else."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from standin.rows import WORDS, Write, chat
from vllm_ci.datasets import drift, exchanges
from vllm_ci.datasets.drift import Exchange, Outcome

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_GREEK = "αβγδεζηθικλμνξοπρστυφχψω"


def exchange(draw: random.Random, words: int = 12) -> Exchange:
    """Questions of very different lengths, a few of which are refused, repeat themselves, or are in another script."""
    question = " ".join(draw.choices(WORDS, k=max(int(draw.lognormvariate(0, 0.6) * words), 1)))
    if draw.random() < 0.08:
        question = "".join(draw.choices(_GREEK, k=40))
    answer = " ".join(draw.choices(WORDS, k=max(int(draw.expovariate(1 / 20)), 1)))
    if draw.random() < 0.1:
        answer = "I'm sorry, but that is not possible."
    elif draw.random() < 0.1:
        answer = "again and " * 60
    return Exchange(question=question, answer=answer, finish="length" if draw.random() < 0.05 else "stop")


def exchanges_of(seed: int, count: int) -> list[Exchange]:
    draw = random.Random(seed)
    return [exchange(draw) for _ in range(count)]


@pytest.mark.slow
def test_looks_at_requests_like_the_training_data_raise_at_most_one_false_alarm_in_a_hundred() -> None:
    looks = [drift.look(exchanges_of(seed, 200), exchanges_of(seed + 10_000, 100)) for seed in range(200)]
    alarms = sum(each.outcome is Outcome.DRIFT for each in looks)
    # 23 in 4,700 such looks, seen when this was written; these 200 have more than their share of them.
    assert alarms <= 8, "9 or more in 200 have a probability of 0.02 % where 1 % is the rate"
    assert all(each.outcome is not Outcome.INCONCLUSIVE for each in looks)


@pytest.mark.slow
def test_p_values_are_small_as_often_as_they_say() -> None:
    looks = [drift.look(exchanges_of(seed, 200), exchanges_of(seed + 10_000, 100)) for seed in range(100)]
    for name in ("question length", "vocabulary", "answer length"):
        low = sum(found.p < 0.2 for each in looks for found in each.findings if found.name == name)
        assert 5 <= low <= 35, name


def longer(each: Exchange) -> Exchange:
    return replace(each, question=f"{each.question} {each.question}")


def other_words(each: Exchange) -> Exchange:
    return replace(each, question=each.question[::-1])


CHANGES: dict[str, Callable[[Exchange], Exchange]] = {
    "question length": longer,
    "answer length": lambda each: replace(each, answer=each.answer[: len(each.answer) // 3]),
    "vocabulary": other_words,
    "script GREEK": lambda each: replace(each, question=_GREEK) if len(each.question) % 3 == 0 else each,
    "refusals": lambda each: replace(each, answer="I cannot help with that.") if len(each.question) % 2 else each,
    "repetition": lambda each: replace(each, answer="the same " * 100) if len(each.question) % 2 else each,
    "cut at max_tokens": lambda each: replace(each, finish="length") if len(each.question) % 2 else each,
    "empty answers": lambda each: replace(each, answer=" ") if len(each.question) % 4 == 0 else each,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_each_kind_of_drift_is_found_and_named(name: str) -> None:
    found = drift.look(exchanges_of(1, 400), [CHANGES[name](each) for each in exchanges_of(2, 200)])
    assert found.outcome is Outcome.DRIFT
    assert found.exit_code == 1
    assert name in [each.name for each in found.findings if each.drift]
    assert any(reason.startswith(name) for reason in found.reasons)


@pytest.mark.slow
def test_a_difference_that_is_significant_and_too_small_to_matter_is_no_drift() -> None:
    trained = [Exchange(question="x" * (100 + number % 100), answer="yes") for number in range(4000)]
    requests = [replace(each, question=each.question + "x" * 10) for each in trained[:2000]]
    found = drift.look(trained, requests)
    length = next(each for each in found.findings if each.name == "question length")
    assert length.p < 0.001
    assert length.distance == pytest.approx(0.1, abs=0.01)
    assert not length.drift


@pytest.mark.parametrize(("trained", "requests"), [(0, 0), (199, 1000), (1000, 99)])
def test_too_few_conversations_say_nothing(trained: int, requests: int) -> None:
    found = drift.look(exchanges_of(1, trained), [longer(each) for each in exchanges_of(2, requests)])
    assert (found.outcome, found.exit_code, found.findings) == (Outcome.INCONCLUSIVE, 4, ())
    assert f"{requests} conversations in the requests and {trained} in the training data" in found.reasons[0]


def test_the_statistics_are_those_of_the_books() -> None:
    # scipy.stats: ks_2samp(range(10), [x + 3.5 for x in range(10)]).statistic, kstwobign.sf and fisher_exact
    assert drift.ks_distance([float(each) for each in range(10)], [each + 3.5 for each in range(10)]) == pytest.approx(0.4)
    assert drift.ks_probability(1.3581 / 100, 20_000, 20_000) == pytest.approx(0.05, abs=0.001)
    assert drift.ks_probability(0.0, 10, 10) == 1.0
    assert drift.fisher(8, 10, 1, 6) == pytest.approx(0.034965034965)
    assert drift.fisher(0, 10, 0, 10) == pytest.approx(1.0)


def logged(text: str, answer: str, *, days: float = 0, key: str = "a", **more: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
    time = (NOW - timedelta(days=days)).isoformat()
    return {
        "time": time,
        "key": key,
        "request": {"messages": [{"role": "user", "content": text}, *more.get("then", [])]},
        "response": {"choices": [choice]},
    }


def test_one_exchange_of_each_conversation_counts_and_is_masked_like_training_data(write: Write) -> None:
    turn = [{"role": "assistant", "content": "which?"}, {"role": "user", "content": "the second, to joe@example.com"}]
    rows = [
        logged("old", "x", days=8),
        logged("Send it", "which?"),
        logged("send  IT", "sent", then=turn),
        logged("Send it", "of another key", key="b"),
        logged("loop", "z" * 5000),
    ]
    found = exchanges.of_requests(rows, since=NOW - timedelta(days=7), regions=("US",))
    assert [each.question for each in found] == ["loop", "Send it", "the second, to [EMAIL]"]
    assert found[0].answer == "z" * 5000
    path: Path = write("train.jsonl", [chat("mail joe@example.com"), chat("MAIL joe@example.com"), {"text": "no conversation"}])
    assert [each.question for each in exchanges.of_training(path, ("US",))] == ["mail [EMAIL]"]
