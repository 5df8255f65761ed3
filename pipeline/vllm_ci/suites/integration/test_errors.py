"""Invalid requests get an error message, and the server keeps working."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from vllm_ci.suites.client import ApiClient, shown, user

_CHAT = "/v1/chat/completions"
_COMPLETIONS = "/v1/completions"
_HELLO = [user("hello")]

# Name, path, fields that replace those of a valid request, and the expected status.
_BAD_FIELDS: list[tuple[str, str, dict[str, Any], int]] = [
    ("unknown-model", _CHAT, {"model": "no-such-model"}, 404),
    ("unknown-model-completions", _COMPLETIONS, {"model": "no-such-model"}, 404),
    ("no-messages", _CHAT, {"messages": None}, 400),
    ("empty-messages", _CHAT, {"messages": []}, 400),
    ("messages-as-text", _CHAT, {"messages": "hello"}, 400),
    ("message-without-role", _CHAT, {"messages": [{"content": "hello"}]}, 400),
    ("content-as-number", _CHAT, {"messages": [{"role": "user", "content": 5}]}, 400),
    ("empty-prompt", _COMPLETIONS, {"prompt": ""}, 400),
    ("prompt-as-object", _COMPLETIONS, {"prompt": {"text": "hello"}}, 400),
    ("token-out-of-vocabulary", _COMPLETIONS, {"prompt": [2_000_000_000]}, 400),
    ("temperature-negative", _CHAT, {"temperature": -1}, 400),
    ("temperature-as-text", _CHAT, {"temperature": "hot"}, 400),
    ("top-p-zero", _CHAT, {"top_p": 0}, 400),
    ("top-p-over-one", _CHAT, {"top_p": 1.5}, 400),
    ("max-tokens-zero", _CHAT, {"max_tokens": 0}, 400),
    ("max-tokens-negative", _COMPLETIONS, {"max_tokens": -1}, 400),
    ("max-tokens-as-text", _CHAT, {"max_tokens": "many"}, 400),
    ("n-zero", _CHAT, {"n": 0}, 400),
    ("frequency-penalty-out-of-range", _CHAT, {"frequency_penalty": 5}, 400),
    ("presence-penalty-out-of-range", _CHAT, {"presence_penalty": -5}, 400),
    ("stop-as-number", _CHAT, {"stop": 5}, 400),
    ("seed-as-text", _CHAT, {"seed": "x"}, 400),
    ("too-many-logprobs", _CHAT, {"logprobs": True, "top_logprobs": 1_000_000}, 400),
    ("top-logprobs-without-logprobs", _CHAT, {"top_logprobs": 2}, 400),
    ("stream-options-without-stream", _CHAT, {"stream_options": {"include_usage": True}}, 400),
    ("tool-choice-without-tools", _CHAT, {"tool_choice": "required"}, 400),
    ("logit-bias-out-of-vocabulary", _CHAT, {"logit_bias": {"2000000000": 1}}, 400),
]
_BAD_BODIES: list[tuple[str, bytes]] = [
    ("not-json", b"{not json"),
    ("cut-off", b'{"model": "x", "messages": [{"role": "us'),
    ("empty", b""),
    ("a-list", b"[]"),
    ("null", b"null"),
    ("a-number", b"42"),
    ("bad-utf8", b'{"model": "\xff\xfe"}'),
]


@pytest.mark.requires_capability("chat", "completions")
@pytest.mark.parametrize(
    ("path", "fields", "status"), [each[1:] for each in _BAD_FIELDS], ids=[each[0] for each in _BAD_FIELDS]
)
def test_a_bad_field_is_refused_and_named(client: ApiClient, path: str, fields: dict[str, Any], status: int) -> None:
    """The response has the documented status and an error object, and a valid request works afterwards."""
    good = {"model": client.model, "max_tokens": 2, **({"messages": _HELLO} if path == _CHAT else {"prompt": "hello"})}
    answer = client.post(path, {name: value for name, value in {**good, **fields}.items() if value is not None})
    assert answer.status_code == status, f"expected {status}: {shown(answer)}"
    is_error_object(answer)
    client.works()


@pytest.mark.requires_capability("chat", "completions")
@pytest.mark.parametrize("body", [each[1] for each in _BAD_BODIES], ids=[each[0] for each in _BAD_BODIES])
def test_a_bad_body_is_refused(client: ApiClient, http: httpx.Client, body: bytes) -> None:
    """The response to any invalid body is 4xx, and a valid request works afterwards."""
    answer = http.post(_CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), shown(answer)
    says_what_is_wrong(answer)
    client.works()


@pytest.mark.requires_capability("chat", "completions")
def test_another_content_type_is_refused(client: ApiClient, http: httpx.Client) -> None:
    """A browser form must not be accepted as an API call (cross-site requests cannot set this header)."""
    good = b'{"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}'
    answer = http.post(_CHAT, content=good, headers={"content-type": "text/plain"})
    assert answer.status_code in (400, 415, 422), shown(answer)
    client.works()


def test_an_unknown_route_is_not_found(http: httpx.Client) -> None:
    """The response is 404 with an error message."""
    answer = http.get("/v1/no-such-route")
    assert answer.status_code == 404, shown(answer)
    says_what_is_wrong(answer)


@pytest.mark.requires_capability("chat")
def test_the_wrong_method_is_not_allowed(http: httpx.Client) -> None:
    """The response to a GET is 405 if the route requires a POST."""
    answer = http.get(_CHAT)
    assert answer.status_code == 405, shown(answer)
    says_what_is_wrong(answer)


@pytest.mark.requires_capability("chat")
def test_the_refusal_of_an_unknown_model_names_it(client: ApiClient) -> None:
    """A wrong model name is the most common mistake, so the message must help."""
    answer = client.post(_CHAT, {"model": "no-such-model", "messages": _HELLO})
    assert "no-such-model" in answer.text, f"the refusal does not name the model: {shown(answer)}"


@pytest.mark.requires_capability("chat")
def test_refusals_are_json(client: ApiClient) -> None:
    """Clients must be able to parse the error."""
    answer = client.post(_CHAT, {"model": client.model})
    kind = answer.headers.get("content-type", "")
    assert kind.startswith("application/json"), f"the content type of the error is {kind!r}"


def is_error_object(answer: httpx.Response) -> None:
    """The documented shape: `error` with a message, a type, and the status as its code."""
    body = answer.json()
    assert isinstance(body.get("error"), dict), f"no error object: {shown(answer)}"
    error = body["error"]
    assert isinstance(error.get("message"), str), f"the error has no message: {error}"
    assert error["message"].strip(), "the error's message is empty"
    assert isinstance(error.get("type"), str), f"the error has no type: {error}"
    assert error.get("code") in (answer.status_code, str(answer.status_code), None), f"code is {error.get('code')!r}"


def says_what_is_wrong(answer: httpx.Response) -> None:
    """One of vLLM's three formats: an error object, an error text, or FastAPI's `detail`."""
    body = answer.json()
    assert isinstance(body, dict), f"the error is not a JSON object: {shown(answer)}"
    assert body.get("error") or body.get("detail"), f"neither error nor detail: {shown(answer)}"
