"""How the training program reads rows; tests/e2e trains with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_ci.programs import train_model


class Letters:
    """A tokenizer of letters, with a template like that of many models."""

    def apply_chat_template(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool = False, **_: Any) -> str:
        text = "".join(f"<{each['role'][0]}>{each['content'].strip()}." for each in messages)
        return text + "<a>" if add_generation_prompt else text

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}


SETTINGS = {"objective": "dpo", "max_tokens": 20}


def row(chosen: str, rejected: str) -> dict[str, Any]:
    said = [{"role": "assistant", "content": each} for each in (chosen, rejected)]
    return {"id": "r", "messages": [{"role": "user", "content": "q"}, said[0]], "rejected": said[1]}


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return folder / "train.jsonl"


def test_a_preference_is_a_question_and_what_differs_after_it(tmp_path: Path) -> None:
    ((found,), long) = train_model.rows(written(tmp_path, row("yes", "no")), Letters(), SETTINGS)
    texts = {name: bytes(tokens).decode() for name, tokens in found.items()}
    assert texts == {"prompt_ids": "<u>q.<a>", "chosen_ids": "yes.", "rejected_ids": "no."}
    assert long == 0


def test_a_conversation_is_learnt_from_its_answer_on(tmp_path: Path) -> None:
    place = written(tmp_path, {"messages": row("yes", "no")["messages"]})
    ((found,), _) = train_model.rows(place, Letters(), {**SETTINGS, "objective": "sft"})
    learnt = [token for token, label in zip(found["input_ids"], found["labels"], strict=True) if label >= 0]
    assert bytes(learnt).decode() == "yes."


@pytest.mark.parametrize("long", [("a" * 20, "no"), ("yes", "b" * 20)], ids=["the better answer", "the worse answer"])
def test_a_preference_with_an_answer_that_is_too_long_is_left_out_and_counted(tmp_path: Path, long: tuple[str, str]) -> None:
    found, left_out = train_model.rows(written(tmp_path, row(*long), row("yes", "no")), Letters(), SETTINGS)
    assert (len(found), left_out) == (1, 1)


def test_answers_that_the_template_makes_the_same_are_refused(tmp_path: Path) -> None:
    with pytest.raises(train_model.Problem, match="both answers of row r are the same to the model"):
        train_model.rows(written(tmp_path, row("yes", " yes")), Letters(), SETTINGS)
