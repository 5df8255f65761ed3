"""Prompts that a challenger has to answer well whatever its figures are: how they are read, checked and told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unit.retraining.conftest import Desk
from unit.retraining.test_settings import GOOD, written
from vllm_ci.config import retraining
from vllm_ci.domain.errors import ConfigError, FailedError
from vllm_ci.evidence.predicates import evaluation
from vllm_ci.evidence.statement import EVALUATION
from vllm_ci.models import reading
from vllm_ci.models.naming import parse
from vllm_ci.retraining import prompts
from vllm_ci.retraining.prompts import Prompt


def asked(number: int, **values: object) -> Prompt:
    """The question of a row, which the toy model answers with `a NUMBER` if it knows it, and with `?` otherwise."""
    given = {"id": f"p{number}", "messages": [{"role": "user", "content": f"q {number}"}], "match": [rf"a {number}\b"]}
    return Prompt(**{**given, **values})  # type: ignore[arg-type]


def line(**values: object) -> str:
    return json.dumps({"messages": [{"role": "user", "content": "q"}], "match": "a", **values})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no lines"),
        ("[]", "line 1: not a JSON object"),
        ('{"messages": ', "line 1: not JSON"),
        (line(messages="q"), "line 1: `messages` is not a list of messages"),
        (line(messages=[]), "line 1: `messages` is not a list of messages"),
        (line(messages=[{"role": "root", "content": "q"}]), "line 1: `messages` is not a list of messages"),
        (line(messages=[{"role": "user", "content": ["q"]}]), "line 1: `messages` is not a list of messages"),
        (line(messages=[{"role": "assistant", "content": "q"}]), "line 1: the last message is not of the user"),
        (line(match=[]), "line 1: it has neither `match` nor `avoid`"),
        (line(match=""), "line 1: `match` is not a list of regular expressions"),
        (line(avoid={"a": 1}), "line 1: `avoid` is not a list of regular expressions"),
        (line(avoid="(a"), r"line 1: `avoid`: '\(a' is not a regular expression"),
        (line(always="yes"), "line 1: `id` is not a text, or `always` is neither true nor false"),
        (line(id=7), "line 1: `id` is not a text"),
        (line(matches="a"), "line 1: unknown: matches"),
        (f"{line(id='x')}\n\n{line(id='x')}", "line 3: the id x is there before"),
    ],
)
def test_a_line_that_is_no_prompt_is_refused_with_its_number(tmp_path: Path, text: str, message: str) -> None:
    place = written(tmp_path, GOOD + "validate: {prompts: prompts.jsonl}\n")
    (tmp_path / "prompts.jsonl").write_text(text)
    with pytest.raises(ConfigError, match="are not prompts") as refused:
        retraining.plan(retraining.read(place), place)
    assert refused.match("prompts.jsonl")
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(refused.value.why)


def test_a_file_of_prompts_that_is_not_there_is_refused(tmp_path: Path) -> None:
    place = written(tmp_path, GOOD + "validate: {prompts: prompts.jsonl}\n")
    with pytest.raises(ConfigError, match=r"prompts\.jsonl cannot be read"):
        retraining.plan(retraining.read(place), place)


def test_prompts_are_read_in_their_order(tmp_path: Path) -> None:
    place = tmp_path / "prompts.jsonl"
    place.write_text(f"{line(id='first', always=True)}\n\n{line(avoid=['b', 'c'])}\n")
    first, second = prompts.read(place)
    assert (first.id, first.match, first.always) == ("first", ("a",), True)
    assert (second.id, second.avoid, second.always) == ("line 3", ("b", "c"), False)


@pytest.mark.parametrize(
    ("always", "champion", "challenger", "broken"),
    [
        (False, "Paris.", "Paris it is.", False),
        (False, "Paris.", "Rome.", True),
        (False, "Rome.", "Rome.", False),  # not worse than before
        (True, "Rome.", "Rome.", True),
        (True, "Rome.", "Paris.", False),
        (True, "Paris.", "Paris, you fool.", True),
        (True, "Paris.", "", True),
    ],
)
def test_an_answer_is_checked_by_patterns(always: bool, champion: str, challenger: str, broken: bool) -> None:
    asked = Prompt(
        id="capital", messages=[{"role": "user", "content": "q"}], match=("Paris",), avoid=("(?i)fool",), always=always
    )
    found = prompts.check([asked], [champion], [challenger])
    assert [name for name, _ in found.broken] == (["capital"] if broken else [])


# The base knows question 0, and not 5 and 27; the trained model knows 0 and 5, and not 27.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "broken"),
    [
        ([asked(0, always=True), asked(5, always=True), asked(0), asked(100, match=["a"])], ()),
        ([asked(0), asked(27, always=True)], ("p27",)),
        ([asked(0, match=["a"], avoid=["a 0"]), asked(5, match=[], avoid=["a 5"])], ("p5",)),
    ],
)
def test_a_challenger_that_breaks_a_prompt_is_not_blessed(desk: Desk, given: list[Prompt], broken: tuple[str, ...]) -> None:
    done = desk.run(prompts=tuple(given))
    assert done.prompts is not None
    assert (done.prompts.asked, tuple(name for name, _ in done.prompts.broken)) == (len(given), broken)
    assert done.decision is not None
    rule = next(each for each in done.decision.rules if each.rule == "prompts")
    assert rule.ok == done.decision.allowed == (not broken)
    if broken:
        assert done.added is None
        with pytest.raises(FailedError, match="not blessed") as refused:
            done.require()
        assert broken[0] in refused.value.why
        return
    known = reading.look(desk.setup, parse("chat@challenger"))
    (said,) = [evaluation.read(each.statement) for each in known.findings.of(EVALUATION)]
    assert said.figures["prompts"]["asked"] == len(given)


@pytest.mark.slow
def test_other_patterns_ask_nothing_again_and_other_prompts_do(desk: Desk) -> None:
    desk.run(prompts=(asked(0),))
    served = desk.engine.ran.count("vllm")
    assert desk.run(prompts=(asked(0, match=[], avoid=["a"]),)).prompts != desk.run(prompts=(asked(0),)).prompts
    assert desk.engine.ran.count("vllm") == served
    desk.run(prompts=(asked(5),))
    assert desk.engine.ran.count("vllm") == 2 * served
