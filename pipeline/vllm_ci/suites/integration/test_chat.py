"""Chat completions without streaming."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from vllm_ci.suites.answers import Answer
from vllm_ci.suites.client import ApiClient, Json, at_once, shown, system, user
from vllm_ci.suites.integration.asking import ENDS, required_of_vllm, too_long, unless_refused
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.verdicts import Fault
from vllm_ci.suites.work import Sizes

pytestmark = pytest.mark.requires_capability("chat")

_DAY_S = 86_400
_PATH = "/v1/chat/completions"
# Optional fields of the API reference that may be null ("nullable").
_NULLS: Json = dict.fromkeys(("frequency_penalty", "logit_bias", "n", "presence_penalty", "seed", "stop", "stream", "top_p"))


@pytest.fixture(scope="module")
def answer(client: ApiClient) -> Answer:
    """One short answer that several cases check."""
    return client.talk("Tell me about the weather.", max_tokens=8)


def test_is_a_chat_completion_object(answer: Answer) -> None:
    """Clients dispatch on the object type."""
    found = answer.read("object")
    assert found == "chat.completion", f"object is {found!r}"
    assert answer.read("id", of=str), "the answer has an empty id"


def test_holds_one_choice_by_the_assistant(answer: Answer) -> None:
    """Without n there is exactly one choice, with index 0 and the role assistant; its content is text or null."""
    indices = [answer.read("choices", at, "index") for at in range(len(answer.choices))]
    assert indices == [0], f"the indices of the choices are {indices}"
    role = answer.read("choices", 0, "message", "role")
    assert role == "assistant", f"role is {role!r}"
    assert isinstance(answer.text, str)


def test_says_why_it_ended(answer: Answer) -> None:
    """Clients need the finish reason to distinguish complete from truncated answers."""
    assert answer.finish_reason in ENDS, f"finish_reason is {answer.finish_reason!r}"


def test_says_when_it_was_made(answer: Answer) -> None:
    """The creation time is today, in seconds since 1970 (not milliseconds); logs are correlated by it."""
    created = answer.read("created", of=(int, float))
    distance = abs(created - time.time())
    # Some servers do not fill it in.
    assert created == 0 or distance < _DAY_S, f"created is {created}, which is {distance:.0f} s away from now"


def test_every_answer_has_an_id_of_its_own(client: ApiClient) -> None:
    """Requests are traced and aborted by id."""
    # Different prompts, because a cache may repeat a whole answer.
    ids = [answer.read("id") for answer in at_once(lambda n: client.talk(f"hello {n}", max_tokens=1), range(4))]
    assert len(set(ids)) == 4, f"4 answers have the ids {sorted(ids)}"


def test_answers_are_sent_as_json(client: ApiClient) -> None:
    """Many clients parse an answer only if its content type says that it is JSON."""
    answer = client.sent(_PATH, {"model": client.model, "messages": [user("hello")], "max_tokens": 1})
    kind = answer.headers.get("content-type", "")
    assert kind.startswith("application/json"), f"the content type of an answer is {kind!r}"


@pytest.mark.compares_answers
@pytest.mark.requires_capability("usage", "system_messages")
def test_a_system_message_is_part_of_the_prompt(client: ApiClient, server: ServerFacts) -> None:
    """If the system message is dropped, the operator's rules are lost."""
    # Many templates add a default system message, so a long one is compared with a short one.
    messages = [system("You speak in short sentences about weather."), user("hello")]
    short, ruled = at_once(
        lambda asked: client.talk(asked, max_tokens=1).count("prompt_tokens"), ([system("Speak."), user("hello")], messages)
    )
    assert ruled > short, f"the prompt has {ruled} tokens with a long system message and {short} with a short one"
    rendered = len(client.tokens(messages)) if server.can("tokenize") else ruled
    assert ruled == rendered, f"the prompt has {ruled} tokens; the chat template renders {rendered}"


@pytest.mark.requires_capability("usage")
def test_text_parts_say_the_same_as_plain_text(client: ApiClient) -> None:
    """Many clients always send content as a list of parts."""

    def counted(text: str, *, parts: bool) -> int:
        content: object = [{"type": "text", "text": text}] if parts else text
        return client.talk([{"role": "user", "content": content}], max_tokens=1).count("prompt_tokens")

    listed, plain = counted("hello world", parts=True), counted("hello world", parts=False)
    if listed == plain:
        return
    # A template may render parts in another way, but the text must get there.
    longer = "hello world, the quick brown fox jumps over the lazy dog"
    by_parts, by_text = counted(longer, parts=True) - listed, counted(longer, parts=False) - plain
    assert by_parts == by_text, f"a longer text adds {by_parts} prompt tokens as a part and {by_text} as plain text"


def test_max_completion_tokens_bounds_the_answer(client: ApiClient) -> None:
    """The newer name of max_tokens must limit the answer too."""
    body = {"model": client.model, "messages": [user("Count to fifty.")], "max_completion_tokens": 3}
    wrong = too_long(unless_refused(client, _PATH, body, "max_completion_tokens"), 3)
    assert not wrong, wrong


def test_unknown_fields_do_no_harm(client: ApiClient, server: ServerFacts) -> None:
    """Newer clients send fields that a server does not know: vLLM ignores them, others may refuse them, as OpenAI does."""
    body = {"model": client.model, "messages": [user("hello")], "max_tokens": 1, "a_field_of_the_future": True}
    answer = client.sent(_PATH, body)
    if answer.status_code in (400, 422) and not server.is_vllm:
        return
    assert answer.status_code == 200, f"a request with an unknown field is answered {shown(answer)}"


def test_null_is_like_no_value(client: ApiClient) -> None:
    """Clients send optional fields as null; the API reference allows it."""
    answer = client.talk("hello", max_tokens=1, **_NULLS)
    assert len(answer.choices) == 1, f"with fields that are null, there are {len(answer.choices)} choices"


def test_an_answer_does_not_repeat_its_prompt(client: ApiClient, canary: Callable[[], str]) -> None:
    """The content is what the model generated, without the prompt."""
    word = canary()
    text = client.talk(f"Remember {word} please.", max_tokens=2).text
    assert word not in text, f"an answer of 2 tokens contains the prompt: {text[:200]!r}"


@pytest.mark.requires_capability("completions", "choices")
def test_n_gives_that_many_chat_answers(client: ApiClient) -> None:
    """The parameter n is not only for completions."""
    count = len(client.talk("hello", n=2, temperature=1, max_tokens=2).choices)
    assert count == 2, f"n=2 gives {count} choices"


@pytest.mark.requires_capability("completions")
@pytest.mark.sized(tokens=(24, 12), times=(6, 3))
def test_chat_answers_vary_at_temperature_one(client: ApiClient, size: Sizes) -> None:
    """Sampling parameters are not only for completions."""
    asked = {"temperature": 1.0, **client.exactly(size.tokens), **client.with_ids}
    drawn = {each.pieces for each in at_once(lambda _: client.talk("Tell me a story.", **asked), range(size.times))}
    assert len(drawn) > 1 or drawn == {()}, f"{size.times} chat answers of {size.tokens} tokens at temperature 1 are the same"


@pytest.mark.requires_capability("temperature")
@pytest.mark.requires_capability("completions")
def test_a_stop_string_ends_a_chat_answer(client: ApiClient) -> None:
    """Stop strings are not only for completions."""
    asked = {"temperature": 0, **client.exactly(32)}
    text = client.talk("Tell me a story.", **asked).text
    plain = [char for char in text[1:] if char.isascii() and char.isalnum()]
    if not plain:
        pytest.skip(f"the model's answer {text!r} contains no plain text for a stop string")
    stop = plain[len(plain) // 2]
    stopped = client.talk("Tell me a story.", stop=[stop], **asked)
    assert stop not in stopped.text, f"the stop string {stop!r} is part of the answer {stopped.text!r}"
    shorter = len(stopped.text) < len(text) and text.startswith(stopped.text)
    assert stopped.finish_reason == "stop" or not shorter, (
        f"stopped at {stop!r}, but finish_reason is {stopped.finish_reason!r}"
    )


@pytest.mark.requires_capability("completions", "tokenize", "logit_bias")
def test_logit_bias_forces_a_token_in_a_chat(client: ApiClient, server: ServerFacts) -> None:
    """logit_bias is not only for completions."""
    token = client.tokens("h", add_special_tokens=False)[-1]
    text = client.talk("hello", temperature=0, max_tokens=3, logit_bias={str(token): 100}).text
    if not text:
        pytest.skip("the answer has no text; a reasoning parser may have put it elsewhere")
    forced = client.text([token] * 3)
    required_of_vllm(server, holds=text.strip() == forced.strip(), message=f"a bias of 100 for {forced!r} gives {text!r}")


def test_some_answer_has_text(client: ApiClient) -> None:
    """A server that loses the text of all answers looks healthy otherwise."""
    prompts = ("Hello.", "Count from one to ten.", "Tell me a story about a fox.")
    answers = at_once(lambda prompt: client.talk(prompt, max_tokens=16), prompts)
    messages = [answer.read("choices", 0, "message", of=dict) for answer in answers]
    if any(answer.text for answer in answers) or any(len([name for name in each if each[name]]) > 1 for each in messages):
        return
    if all((answer.completion_tokens or 0) > 1 for answer in answers):
        raise Fault(f"{len(answers)} answers of several tokens each have no text at all: {messages[0]}")
