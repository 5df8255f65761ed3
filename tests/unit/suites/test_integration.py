"""Parts of the integration suite: comparisons, refusals, and what is recorded of a run."""

from __future__ import annotations

import httpx
import pytest

from doubles import suiterun
from doubles.bodies import Json
from doubles.defects import DEFECTS
from doubles.server import Double
from doubles.wire import Response, as_json
from vllm_ci.suites.client import ApiClient
from vllm_ci.suites.integration import asking, refusals, test_structured
from vllm_ci.suites.integration.refusals import ErrorBodyError
from vllm_ci.suites.plugins.exchanges import exchange
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.verdicts import Fault

SERVER = ServerFacts(url="http://e", model="m", models=("m",), version="", routes={}, absent={}, max_model_len=0, double=False)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([(1, 2, 3, 4), (1, 2, 3, 4)], True),
        ([(1, 2, 3, 4), (1, 2, 9, 9)], True),
        ([(1, 2, 3, 4), (1, 9, 9, 9)], False),
        ([(1, 2, 3, 4), (9, 2, 3, 4)], False),
        ([(), ()], True),
        ([(), (1,)], False),
    ],
)
def test_answers_are_alike_if_they_share_their_first_half(answers: list[tuple[int, ...]], expected: bool) -> None:
    assert asking.alike(answers) is expected


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "no such model", "code": "model_not_found"}},
        {"error": "no such model"},
        {"detail": "no such model"},
        {"detail": [{"msg": "no such model"}]},
        {"message": "no such model", "object": "error"},
    ],
)
def test_a_message_is_found_in_every_shape(body: object) -> None:
    assert "no such model" in refusals.message(httpx.Response(400, json=body))


@pytest.mark.parametrize("body", [{}, [], {"error": {"message": " "}}, {"error": ""}, {"error": None}, "text"])
def test_a_refusal_without_a_message_is_named(body: object) -> None:
    with pytest.raises(ErrorBodyError, match="the refusal has no message: 400"):
        refusals.message(httpx.Response(400, json=body))


def test_a_page_is_a_gateways_on_its_own_statuses_only() -> None:
    page = {"content-type": "text/html"}
    assert refusals.is_page(httpx.Response(404, text="<html>", headers=page))
    assert not refusals.is_page(httpx.Response(400, text="<html>", headers=page))


@pytest.mark.slow
def test_a_case_that_fails_has_its_exchange() -> None:
    found = suiterun.run(DEFECTS["created-as-text"].make, ["integration/test_chat.py::test_says_when_it_was_made"])
    (exchange,) = found.exchanges.values()
    assert exchange["request"].startswith("POST /v1/chat/completions\n{")
    assert '"created":"' in exchange["response"]
    (message,) = found.messages.values()
    assert message.startswith("POST /v1/chat/completions: created is '20")
    assert message.endswith("', not a whole number or a number")


def test_a_request_that_gets_no_answer_is_reported_without_one() -> None:
    def late(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("late", request=request)

    with httpx.Client(base_url="http://e", transport=httpx.MockTransport(late)) as http:
        client = ApiClient(http=http, model="m", server=SERVER)
        with pytest.raises(Fault, match="is not answered within 5 s"):
            client.sent("/v1/chat/completions", {"messages": []})
        assert exchange(client.exchanges[-1]) == {"request": 'POST /v1/chat/completions\n{"messages":[]}'}
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/completions", {})
        assert exchange(client.exchanges[-1]) == {"request": "POST /v1/completions\n{}"}


@pytest.mark.slow
def test_a_stream_that_breaks_is_not_reported_with_another_request() -> None:
    found = suiterun.run(DEFECTS["streams-have-two-lengths"].make, ["streaming/test_delivery.py"])
    assert found.with_status("failed")
    assert not found.exchanges


def test_the_fields_that_a_server_documents_are_read_from_its_openapi_document() -> None:
    body = {"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Request"}}}}}
    document = {"paths": {"/v1/x": {"post": body}}, "components": {"schemas": {"Request": {"properties": {"a": {}, "b": {}}}}}}
    assert asking.fields_of(document, "/v1/x") == {"a", "b"}
    assert asking.fields_of(document, "/v1/y") == frozenset()


@pytest.mark.parametrize("document", [None, [], "x", {}, {"paths": []}, {"paths": {"/v1/x": {"post": {"requestBody": None}}}}])
def test_a_document_that_names_no_fields_says_nothing(document: object) -> None:
    assert asking.fields_of(document, "/v1/x") == frozenset()


@pytest.mark.slow
def test_a_parameter_that_a_server_does_not_document_is_skipped() -> None:
    class Documents(Double):
        def got(self, path: str) -> Response:
            if path != "/openapi.json":
                return super().got(path)
            fields: Json = {"properties": {name: {} for name in ("temperature", "seed", "logit_bias", "top_p")}}
            body = {"requestBody": {"content": {"application/json": {"schema": fields}}}}
            return as_json({"paths": {path: {"post": body} for path in ("/v1/completions", "/v1/chat/completions")}})

    found = suiterun.run(Documents, ["integration/test_parameters.py"])
    for case, status in found.statuses.items():
        assert status == ("passed" if "top_p" in case or "a_seed" in case else "skipped"), found.messages.get(case)


class Whitespaced:
    """A server whose model fills structures with white space, unless what it repeats becomes less likely."""

    model, server = "m", SERVER

    def __init__(self) -> None:
        self.asked: list[Json] = []

    def sent(self, _: str, body: Json) -> httpx.Response:
        self.asked.append(body)
        endless = body.get("frequency_penalty", 0) < 1
        message = {"role": "assistant", "content": "{" if endless else "{}"}
        choice = {"index": 0, "message": message, "finish_reason": "length" if endless else "stop"}
        return httpx.Response(200, json={"choices": [choice]}, request=httpx.Request("POST", "http://e"))


def test_a_structure_that_a_model_fills_with_white_space_is_asked_for_again_with_penalties() -> None:
    client = Whitespaced()
    assert test_structured.finished(client, "a schema", response_format={}) == "{}"  # type: ignore[arg-type]
    assert [each["max_tokens"] for each in client.asked] == [200, 600]
    assert "frequency_penalty" not in client.asked[0]
