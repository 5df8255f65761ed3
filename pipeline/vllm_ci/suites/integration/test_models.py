"""The model list, model names and health route."""

from __future__ import annotations

import pytest

from vllm_ci.suites.answers import Answer, read
from vllm_ci.suites.client import ApiClient, Json, at_once, shown
from vllm_ci.suites.reach import cards_of
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.work import Sizes

_LIST = "GET /v1/models"
_TOGETHER = 4
_ADAPTERS = 4


@pytest.fixture(scope="module")
def listed(client: ApiClient) -> Json:
    """The list of models."""
    answer = client.get("/v1/models")
    if answer.status_code != 200:
        pytest.skip(f"the server has no list of models: {shown(answer)}")
    found: Json = read(answer.json() if cards_of(answer) is not None else answer.text, _LIST, of=dict)
    return found


def test_lists_its_models_as_the_wire_format_says(listed: Json) -> None:
    """Clients select models from this list, so it must have the documented format."""
    kind = read(listed, _LIST, "object")
    assert kind == "list", f"object is {kind!r}, not 'list'"
    cards = read(listed, _LIST, "data", of=list)
    assert cards, "no model is listed"
    for at in range(len(cards)):
        kind = read(listed, _LIST, "data", at, "object")
        assert kind == "model", f"a card's object is {kind!r}, not 'model'"
        assert read(listed, _LIST, "data", at, "id", of=str), "a card has an empty id"
        if cards[at].get("created") is not None:  # several servers leave it out
            read(listed, _LIST, "data", at, "created", of=(int, float))


@pytest.mark.requires_capability("completions")
def test_a_completion_names_the_model_that_was_asked(client: ApiClient, server: ServerFacts) -> None:
    """Another model name means wrong routing or a wrong list."""
    named(server, client.finish("hello", max_tokens=1))


@pytest.mark.requires_capability("chat")
def test_a_chat_completion_names_the_model_that_was_asked(client: ApiClient, server: ServerFacts) -> None:
    """The same for chat, which is another code path."""
    named(server, client.talk("hello", max_tokens=1))


@pytest.mark.requires_capability("text")
def test_every_adapter_in_the_list_answers(client: ApiClient, server: ServerFacts, listed: Json) -> None:
    """An adapter that vLLM lists beside the model is asked for by its name, and named in the answer."""
    if not server.is_vllm:
        pytest.skip("only vLLM lists adapters with their model as the parent")
    cards = [card for card in listed.get("data") or [] if isinstance(card, dict) and card.get("parent") == server.model]
    if not cards:
        pytest.skip(f"no adapter of {server.model} is listed")
    for name in [str(card.get("id")) for card in cards][:_ADAPTERS]:
        body = {**client.body("hello", max_tokens=1), "model": name}
        said = client.answer(client.path, body).read("model")
        assert said == name, f"requested the adapter {name!r}, but {said!r} answered"


def test_says_that_it_is_healthy(client: ApiClient) -> None:
    """Load balancers and Kubernetes probes use this route."""
    answer = client.get("/health")
    if answer.status_code in (401, 403, 404, 405):
        pytest.skip(f"the server has no /health: {shown(answer)}")
    assert answer.status_code == 200, shown(answer)


@pytest.mark.requires_capability("text")
@pytest.mark.sized(times=(40, 20))
def test_answers_the_fortieth_request_like_the_first(client: ApiClient, size: Sizes) -> None:
    """Some errors appear only after several requests, such as leaked connections or slots."""
    body = client.body("hello", max_tokens=1, temperature=0)
    statuses: list[int] = []
    while len(statuses) < size.times:
        statuses += at_once(lambda _: client.sent(client.path, body).status_code, range(_TOGETHER))
    first = next((number for number, status in enumerate(statuses, 1) if status != 200), 0)
    assert not first, f"of {len(statuses)} requests, number {first} is answered {statuses[first - 1]}"


def named(server: ServerFacts, answer: Answer) -> None:
    """Check the model that an answer names: the requested one, a snapshot of it, or what a gateway calls it.

    OpenAI answers ``gpt-4`` as ``gpt-4-0613``, and gateways name the model behind an alias. vLLM names what was requested.
    """
    name = answer.read("model", of=str)
    asked = server.model
    if name == asked or name.startswith(f"{asked}-") or name.rpartition("/")[2] == asked.rpartition("/")[2]:
        return
    assert not server.is_vllm, f"requested {asked!r}, but {name!r} answered"
    assert name, "the answer names no model"
    assert name not in server.models, f"requested {asked!r}, but {name!r} answered, which is another listed model"
