"""The model list and the server's word about itself."""

from __future__ import annotations

import httpx

from vllm_ci.suites.client import Client, shown
from vllm_ci.suites.server import Server


def test_lists_its_models_as_the_wire_format_says(http: httpx.Client) -> None:
    """Clients find a model by this list: its shape has to be the documented one."""
    answer = http.get("/v1/models")
    body = answer.json()
    assert body["object"] == "list", f"object is {body['object']!r}, not 'list'"
    assert body["data"], "no model is listed"
    for card in body["data"]:
        assert card["object"] == "model", f"a card's object is {card['object']!r}, not 'model'"
        assert isinstance(card["id"], str), "a card has no id"
        assert isinstance(card["created"], int), "a card has no time of creation"


def test_answers_under_the_name_it_lists(client: Client, server: Server) -> None:
    """An answer that names another model was routed wrongly, or the list is wrong."""
    for answer in (client.complete("hello", max_tokens=1), client.chat("hello", max_tokens=1)):
        assert answer["model"] == server.model, f"asked {server.model!r}, and {answer['model']!r} answered"


def test_says_that_it_is_healthy(http: httpx.Client) -> None:
    """Load balancers and Kubernetes probes ask this route."""
    answer = http.get("/health")
    assert answer.status_code == 200, shown(answer)
