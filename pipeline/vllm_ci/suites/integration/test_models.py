"""The model list, model names and health route."""

from __future__ import annotations

import httpx
import pytest

from vllm_ci.suites.client import ApiClient, shown
from vllm_ci.suites.server import ServerFacts


def test_lists_its_models_as_the_wire_format_says(http: httpx.Client) -> None:
    """Clients select models from this list, so it must have the documented format."""
    body = http.get("/v1/models").json()
    assert body["object"] == "list", f"object is {body['object']!r}, not 'list'"
    assert body["data"], "no model is listed"
    for card in body["data"]:
        assert card["object"] == "model", f"a card's object is {card['object']!r}, not 'model'"
        assert isinstance(card["id"], str), "a card has no id"
        assert isinstance(card["created"], int), "a card has no creation time"


@pytest.mark.requires_capability("completions")
def test_a_completion_names_the_model_that_was_asked(client: ApiClient, server: ServerFacts) -> None:
    """Another model name means wrong routing or a wrong list."""
    answer = client.complete("hello", max_tokens=1)
    assert answer["model"] == server.model, f"requested {server.model!r}, but {answer['model']!r} answered"


@pytest.mark.requires_capability("chat")
def test_a_chat_completion_names_the_model_that_was_asked(client: ApiClient, server: ServerFacts) -> None:
    """The same for chat, which is another code path."""
    answer = client.chat("hello", max_tokens=1)
    assert answer["model"] == server.model, f"requested {server.model!r}, but {answer['model']!r} answered"


def test_says_that_it_is_healthy(http: httpx.Client) -> None:
    """Load balancers and Kubernetes probes use this route."""
    answer = http.get("/health")
    if answer.status_code in (401, 403, 404):
        pytest.skip(f"a gateway hides /health: {shown(answer)}")
    assert answer.status_code == 200, shown(answer)


@pytest.mark.requires_capability("completions")
def test_answers_the_fortieth_request_like_the_first(client: ApiClient, server: ServerFacts) -> None:
    """Some errors appear only after several requests, such as leaked connections or slots."""
    body = {"model": server.model, "prompt": "hello", "max_tokens": 1, "temperature": 0}
    statuses = [client.post("/v1/completions", body).status_code for _ in range(40)]
    assert set(statuses) == {200}, f"of 40 sequential requests, number {_first_bad(statuses)} got {set(statuses) - {200}}"


def _first_bad(statuses: list[int]) -> int:
    return next(number for number, status in enumerate(statuses, 1) if status != 200)
