"""Fields that a server wants to have in other words are learned from its refusals, and changed in what is sent."""

from __future__ import annotations

import json
import ssl
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles.legal_servers import NewerLimit, OneTemperature, OneTemperatureChatOnly
from doubles.running import running
from doubles.server import Double
from vllm_ci.loadgen.recorder import Recorder
from vllm_ci.suites import raw
from vllm_ci.suites.client import ApiClient
from vllm_ci.suites.dialect import Dialect, learn
from vllm_ci.suites.server import probe
from vllm_ci.suites.traffic import Traffic
from vllm_ci.suites.transport import PatientTransport

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ASKED = {"model": "double", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, "temperature": 0}


def dialect(*, newer_limit: bool = False, no_temperature: bool = False) -> Dialect:
    found = Dialect()
    found.newer_limit, found.no_temperature = newer_limit, no_temperature
    return found


def spoken(body: object, path: str = CHAT, **known: bool) -> Any:
    return json.loads(dialect(**known).spoken(path, json.dumps(body).encode()))


@given(st.binary(max_size=60), st.sampled_from([CHAT, COMPLETIONS, "/x"]))
def test_nothing_is_changed_before_something_is_learned(body: bytes, path: str) -> None:
    assert Dialect().spoken(path, body) == body


def test_only_chats_are_changed() -> None:
    assert spoken(ASKED, COMPLETIONS, newer_limit=True, no_temperature=True) == ASKED
    assert spoken(ASKED, "/openai/v1/chat/completions?x=1", newer_limit=True)["max_completion_tokens"] == 2


def test_the_limit_gets_its_newer_name() -> None:
    found = spoken(ASKED, newer_limit=True)
    assert found == {**{name: value for name, value in ASKED.items() if name != "max_tokens"}, "max_completion_tokens": 2}


def test_a_body_that_has_the_newer_name_is_left_alone() -> None:
    body = {**ASKED, "max_completion_tokens": 3}
    assert spoken(body, newer_limit=True) == body


@pytest.mark.parametrize("value", [0, 1, 2, 0.5, 1.5, 2.0])
@pytest.mark.parametrize("place", ["first", "middle", "last", "alone"])
def test_a_valid_temperature_is_left_out(value: float, place: str) -> None:
    rest = {} if place == "alone" else {"a": 1, "b": [2]}
    items = list(rest.items())
    items.insert({"first": 0, "middle": 1, "last": 2, "alone": 0}[place], ("temperature", value))
    assert spoken(dict(items), no_temperature=True) == rest


@pytest.mark.parametrize("value", [-1, 2.5, 10**30, "hot", None, [0], True])
def test_an_invalid_temperature_is_sent_so_that_it_can_be_refused(value: object) -> None:
    assert spoken({"a": 1, "temperature": value}, no_temperature=True) == {"a": 1, "temperature": value}


def test_text_that_looks_like_a_field_is_not_changed() -> None:
    body = {"messages": [{"role": "user", "content": 'say "max_tokens": 1, "temperature": 0}'}], "x": 1}
    assert spoken(body, newer_limit=True, no_temperature=True) == body


@given(st.binary(max_size=200))
def test_bodies_that_are_no_json_are_changed_without_an_error(body: bytes) -> None:
    assert isinstance(dialect(newer_limit=True, no_temperature=True).spoken(CHAT, body + b'"max_tokens": '), bytes)


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (400, {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}, {"max_tokens"}),
        (400, {"message": "Only the default (1) value is supported.", "param": "temperature"}, {"temperature"}),
        (422, {"message": "`temperature` is not supported"}, {"temperature"}),
        (400, {"message": "the model is not found"}, set()),
        (400, {"message": "the server runs at a high temperature"}, set()),
        (500, {"message": "use max_completion_tokens"}, set()),
        (200, {"message": "use max_completion_tokens"}, set()),
    ],
)
def test_what_is_refused_is_learned_once(status: int, error: dict[str, str], expected: set[str]) -> None:
    found = Dialect()
    answer = httpx.Response(status, json={"error": error})
    assert found.learn(answer) == bool(expected)
    assert set(found.facts) == expected
    assert not found.learn(answer), "the same refusal is not worth another request"


def client(url: str, traffic: Traffic) -> httpx.Client:
    transport = PatientTransport(traffic, tls=ssl.create_default_context())
    return httpx.Client(base_url=url, transport=transport, trust_env=False, timeout=20)


@pytest.mark.parametrize(
    ("make", "expected"),
    [(Double, set()), (NewerLimit, {"max_tokens"}), (OneTemperature, {"max_tokens", "temperature"})],
)
def test_a_refusal_is_learned_and_then_all_clients_are_answered(make: type[Double], expected: set[str]) -> None:
    traffic = Traffic()
    with running(make) as (url, _), client(url, traffic) as http:
        learn(http, "double", traffic.dialect)
        assert set(traffic.dialect.facts) == expected
        answer = http.post(CHAT, json=ASKED)
        assert answer.status_code == 200
        assert ("max_completion_tokens" in answer.request.content.decode()) == bool(expected), "the report shows what was sent"
        body = json.dumps(ASKED).encode()
        headers = {"content-type": "application/json"}
        assert raw.send(url, CHAT, method="POST", headers=headers, body=body, traffic=traffic).status == 200
        with Recorder(url, patience=traffic) as recorder:
            assert recorder.post(CHAT, ASKED).status == 200
            assert recorder.stream(CHAT, ASKED).text


def test_the_dialect_is_a_fact_of_the_server() -> None:
    traffic = Traffic()
    with running(OneTemperatureChatOnly) as (url, _), client(url, traffic) as http:
        server = probe(http, traffic=traffic)
        assert server.facts["dialect"] == traffic.dialect.facts
        assert "refuses a temperature" in server.absent["temperature"]
        ApiClient(http=http, model="double", server=server).works()


def test_a_server_without_a_dialect_has_no_such_fact() -> None:
    traffic = Traffic()
    with running(Double) as (url, _), client(url, traffic) as http:
        server = probe(http, traffic=traffic)
    assert "dialect" not in server.facts
    assert server.can("temperature")
