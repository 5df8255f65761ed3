"""Plain completions."""

from __future__ import annotations

import pytest

from vllm_ci.suites.answers import Answer
from vllm_ci.suites.client import ApiClient, at_once
from vllm_ci.suites.integration.asking import ENDS, repeats, unless_refused
from vllm_ci.suites.server import ServerFacts

pytestmark = pytest.mark.requires_capability("completions")

PROMPTS = ("the quick brown fox", "tell me a secret", "what is your name")


@pytest.fixture(scope="module")
def answer(client: ApiClient) -> Answer:
    """One short answer that several cases check."""
    return client.finish("hello world", max_tokens=6)


def test_is_a_text_completion_object(answer: Answer) -> None:
    """Clients dispatch on the object type."""
    found = answer.read("object")
    assert found == "text_completion", f"object is {found!r}"
    assert answer.read("id", of=str), "the answer has an empty id"


def test_holds_one_choice_with_text(answer: Answer) -> None:
    """Without n there is exactly one choice, with index 0."""
    indices = [answer.read("choices", at, "index") for at in range(len(answer.choices))]
    assert indices == [0], f"the indices of the choices are {indices}"
    assert isinstance(answer.text, str)
    assert answer.finish_reason in ENDS, f"finish_reason is {answer.finish_reason!r}"


@pytest.mark.requires_capability("echo")
def test_echo_returns_the_prompt_before_the_answer(client: ApiClient) -> None:
    """Scoring and evaluation depend on echo."""

    def continued() -> list[str]:
        asked = {"max_tokens": 4, "temperature": 0}
        plain, echoed = at_once(lambda fields: client.finish("hello world", **asked, **fields).text, ({}, {"echo": True}))
        echoed = echoed.lstrip()
        assert echoed.startswith("hello world"), f"echo returned {echoed!r}, which does not start with the prompt"
        return [plain, echoed.removeprefix("hello world")]

    assert repeats(continued), f"echo returned the prompt, and then not the answer without echo: {continued()}"


@pytest.mark.compares_answers
@pytest.mark.requires_capability("echo")
def test_echo_keeps_every_character(client: ApiClient, server: ServerFacts) -> None:
    """Characters of several bytes come back unchanged, and so does white space at both ends."""
    if not server.is_vllm:
        pytest.skip("only vLLM promises the prompt itself; others return it from its tokens")
    prompt = "  naïve 日本語 🦊 fin \n"
    echoed = client.finish(prompt, max_tokens=1, temperature=0, echo=True).text
    assert echoed.startswith(prompt), f"echo returned {echoed!r} for {prompt!r}"


@pytest.mark.requires_capability("tokenize", "token_prompts", "usage")
def test_a_prompt_of_token_ids_is_the_same_prompt(client: ApiClient) -> None:
    """Clients that render prompts themselves send ids, which must be treated like the same text."""
    ids = client.tokens("the quick brown fox")

    def answers() -> list[str]:
        by_text, by_ids = at_once(
            lambda prompt: client.finish(prompt, max_tokens=6, temperature=0), ("the quick brown fox", ids)
        )
        count = by_ids.count("prompt_tokens")
        assert count == len(ids), f"{count} prompt tokens for {len(ids)} ids"
        return [by_text.text, by_ids.text]

    assert repeats(answers), "the same prompt as ids gets another answer"


def test_a_completion_has_sixteen_tokens_by_default(client: ApiClient, server: ServerFacts) -> None:
    """Without max_tokens there are at most 16 (OpenAI API reference, completions)."""
    if not server.is_vllm:
        pytest.skip("several servers document another default")
    ends = {"ignore_eos": True} if server.can("ignore_eos") else {}
    count = client.finish("hello", **ends).count("completion_tokens")
    assert count <= 16, f"a completion without max_tokens has {count} tokens"


@pytest.mark.compares_answers
@pytest.mark.requires_capability("batch", "token_prompts", "tokenize", "usage")
def test_a_batch_of_token_ids_answers_every_prompt(client: ApiClient) -> None:
    """A prompt may be a list of lists of token ids (OpenAI API reference, ``prompt``)."""
    ids = [client.tokens(prompt) for prompt in PROMPTS]
    body = {"model": client.model, "prompt": ids, "max_tokens": 1}
    answer = unless_refused(client, "/v1/completions", body, "a list of lists of token ids")
    indices = [choice.get("index") for choice in answer.choices]
    assert indices == [0, 1, 2], f"3 prompts of token ids have choices with the indices {indices}"
    counted = answer.count("prompt_tokens")
    assert counted == sum(map(len, ids)), f"{counted} prompt tokens for prompts of {[len(each) for each in ids]} ids"


@pytest.mark.requires_capability("batch")
def test_a_batch_answers_every_prompt_in_its_order(client: ApiClient, server: ServerFacts) -> None:
    """Each answer of a batch belongs to its prompt; with echo, its start shows which one."""
    if not server.can("echo"):
        _answers_are_their_own(client)
        return
    choices = client.finish(PROMPTS, max_tokens=2, echo=True).choices
    indices = [choice.get("index") for choice in choices]
    assert indices == [0, 1, 2], f"indices are {indices}"
    for prompt, choice in zip(PROMPTS, choices, strict=True):
        text = str(choice.get("text"))
        assert text.lstrip().startswith(prompt), f"the answer to {prompt!r} starts with {text[:40]!r}"


@pytest.mark.requires_capability("batch", "choices")
def test_a_batch_with_several_choices_numbers_all_of_them(client: ApiClient) -> None:
    """Two prompts with two choices each have the indices 0 to 3."""
    indices = sorted(choice.get("index", -1) for choice in client.finish(PROMPTS[:2], max_tokens=1, n=2, temperature=1).choices)
    assert indices == [0, 1, 2, 3], f"2 prompts with n=2 have choices with the indices {indices}"


@pytest.mark.compares_answers
@pytest.mark.requires_capability("batch", "usage")
def test_a_batch_counts_the_tokens_of_all_its_prompts(client: ApiClient, server: ServerFacts) -> None:
    """Billing depends on usage."""
    alone = at_once(lambda prompt: client.finish(prompt, max_tokens=1).count("prompt_tokens"), PROMPTS)
    together = client.finish(PROMPTS, **client.exactly(1))
    counted, made = together.count("prompt_tokens"), together.count("completion_tokens")
    assert counted == sum(alone), f"{counted} prompt tokens for prompts of {alone}"
    assert made == 3 or (made < 3 and not server.can("ignore_eos")), f"{made} tokens for three answers of one token"


def _answers_are_their_own(client: ApiClient) -> None:
    """Without echo: no answer of the batch is the one that another of its prompts gets alone."""
    asked = {"max_tokens": 8, "temperature": 0}
    alone = [client.finish(prompt, **asked).text for prompt in PROMPTS]
    together = client.finish(PROMPTS, **asked)
    by_index = {choice.get("index"): str(choice.get("text")) for choice in together.choices}
    assert sorted(by_index, key=str) == [0, 1, 2], f"indices are {list(by_index)}"
    for at, prompt in enumerate(PROMPTS):
        others = [PROMPTS[other] for other in range(3) if alone[other] == by_index[at] != alone[at]]
        assert not others, f"the answer to {prompt!r} is the one to {others[0]!r}"
