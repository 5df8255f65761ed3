"""Requests without the key are refused, in all variants; requests with the key are accepted.

Entry is proved by content that was served to a valid request, never by a status alone: a malformed request may be refused
before the key is looked at, and 429, 5xx, redirects and pages for browsers open nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from vllm_ci.suites.client import ApiClient
from vllm_ci.suites.findings import Finding
from vllm_ci.suites.raw import RawResponse
from vllm_ci.suites.security import evidence
from vllm_ci.suites.security.door import Door, together
from vllm_ci.suites.security.routes import Route, catalogue, spellings
from vllm_ci.suites.security.ways import CHAT, COMPLETIONS, SURFACES, WAYS, Way, wrong_keys, wrong_places
from vllm_ci.suites.server import ServerFacts

Judge = Callable[[Iterable[Finding]], None]

with_key = pytest.mark.requires_capability("auth")
_MODELS = next(way for way in WAYS if way.name == "models")
# A request that the handler itself refuses, in these words: it would change the server otherwise.
_HANDLERS = {
    "POST /scale_elastic_ep": ({"new_data_parallel_size": 0}, "new_data_parallel_size must be a positive integer"),
}
_ODD_KEYS = {"accents": "Bearer clé-é", "emoji": "Bearer 🔑", "long": f"Bearer {'x' * 4000}", "blanks": "Bearer  a  b"}
_ONE_A_ROUTE = {way.route: way for way in reversed(WAYS)}


@pytest.fixture(scope="module")
def guarded(door: Door) -> list[Way]:
    """Ways that the server serves with the key only, the most used first."""
    return door.working()


def test_asks_for_a_key(server: ServerFacts, judge: Judge) -> None:
    """A server without a key serves everybody who can reach it."""
    message = "lists its models and completes prompts for anyone; start it with VLLM_API_KEY set, or use a gateway"
    judge([] if server.can("auth") else [Finding(id="no-authentication", severity="medium", message=message)])


@with_key
def test_a_missing_key_is_the_clients_mistake(door: Door, judge: Judge) -> None:
    """A request without a key is refused with 4xx: 5xx says that the server is broken (RFC 9110, section 15.6)."""
    asked = [_MODELS, *(way for way in WAYS if way.name in ("chat", "completions"))]
    answers = [(way, door.ask(way)) for way in asked]
    judge(
        Finding(id=f"server-error:no-key:{way.route}", severity="medium", message=f"without a key it is answered {answer}")
        for way, answer in answers
        if answer.status >= 500
    )


@with_key
@pytest.mark.parametrize("name", _ODD_KEYS)
def test_a_key_of_odd_characters_is_the_clients_mistake(door: Door, judge: Judge, name: str) -> None:
    """A key that the server cannot compare is a wrong one: 4xx (RFC 9110, section 15.6)."""
    answer = door.ask(_MODELS, [("Authorization", _ODD_KEYS[name])])
    message = f"a key of odd characters ({name}) is answered {answer}"
    judge([Finding(id=f"server-error:key:{name}", severity="medium", message=message)] if answer.status >= 500 else [])


@with_key
def test_nothing_is_open_that_should_not_be(door: Door, judge: Judge) -> None:
    """Without a key, only routes on the list of open routes serve anything."""
    routes = catalogue().routes(door.server)
    known = [way for route, way in _ONE_A_ROUTE.items() if route not in map(str, routes)]
    found = together(lambda route: _opened(door, route), [*routes, *(Route(method=way.method, path=way.path) for way in known)])
    judge(finding for finding in found if finding is not None)


def _opened(door: Door, route: Route) -> Finding | None:
    """The finding for a route that serves content to a valid request without the key."""
    known = catalogue()
    declared = "high" if door.server.is_vllm else "low"
    if way := _ONE_A_ROUTE.get(str(route)):
        answer = door.ask(way)
        return known.finding(route, _shown(answer), unknown="high") if door.opens(way, answer) else None
    if str(route) in _HANDLERS:
        body, words = _HANDLERS[str(route)]
        answer = door.send(route.target, method="POST", headers=_JSON, body=json.dumps(body).encode())
        return known.finding(route, _shown(answer)) if words in answer.text else None
    if route.method != "GET":
        return None  # nothing is known about its effect, so it is not called
    answer = door.send(route.target)
    if not evidence.content(answer) or door.is_absent(answer, route.target, "GET", keyed=False):
        return None
    return known.finding(route, _shown(answer), unknown=declared)


@with_key
@pytest.mark.parametrize("surface", SURFACES)
def test_no_way_to_ask_needs_no_key(door: Door, judge: Judge, surface: str) -> None:
    """A switch (a stream, tools, several choices ...) may take a path through the server without its access check."""
    ways = SURFACES[surface]
    answers = together(door.ask, ways)
    opened = [(way, answer) for way, answer in zip(ways, answers, strict=True) if door.opens(way, answer)]
    if not opened and not any(together(lambda way: door.opens(way, door.with_the_key(way)), ways)):
        pytest.skip(f"the server does not offer {ways[0].route}: {_shown(door.with_the_key(ways[0]))}")
    known = catalogue().open  # said by the case about open routes
    told = [(way, _shown(answer)) for way, answer in opened if way.route not in known]
    judge(_opening(f"open-way:{surface}", "answers without a key", told))


def _opening(finding: str, what: str, opened: Sequence[tuple[Way, str]]) -> list[Finding]:
    """One finding for one hole, however many ways lead through it; none if nothing was opened."""
    if not opened:
        return []
    way, said = opened[0]
    more = f"; so do {', '.join(each.name for each, _ in opened[1:])}" if len(opened) > 1 else ""
    return [Finding(id=finding, severity="critical", message=f"{what}: {way.name} ({way.route}) returns {said}{more}")]


@with_key
def test_no_other_model_needs_no_key(door: Door, judge: Judge) -> None:
    """Every listed model is guarded, adapters included."""
    others = [name for name in door.server.models if name != door.server.model][:5]
    if not others:
        pytest.skip("the server lists one model")
    asked = [(name, way) for name in others for way in WAYS if way.name in ("chat", "chat-stream", "completions", "embeddings")]
    answers = together(lambda each: door.ask(each[1], model=each[0]), asked)
    judge(
        Finding(id=f"open-model:{name}:{way.name}", severity="critical", message=f"serves {_shown(answer)} without a key")
        for (name, way), answer in zip(asked, answers, strict=True)
        if door.opens(way, answer)
    )


@with_key
@pytest.mark.parametrize("mistake", wrong_keys("key"))
def test_a_wrong_key_opens_nothing(door: Door, guarded: list[Way], judge: Judge, mistake: str) -> None:
    """Only the exact key is accepted."""
    if not door.key:
        pytest.skip("the API key was not given (--vllm-api-key-env), so no similar keys can be tried")
    opened = _accepted(door, guarded, wrong_keys(door.key)[mistake])
    sent = ", ".join(f"{name}: {value}" for name, value in wrong_keys("THE-KEY")[mistake])  # the real one is never shown
    judge(_opening(f"wrong-key:{mistake}", f"answers a request with the wrong key ({sent})", opened))


@with_key
@pytest.mark.parametrize("place", wrong_places("key"))
def test_the_key_is_accepted_in_documented_places_only(door: Door, guarded: list[Way], judge: Judge, place: str) -> None:
    """A key in a cookie is sent by browsers on their own; other schemes mean something else (RFC 9110, section 11.1)."""
    if not door.key:
        pytest.skip("the API key was not given (--vllm-api-key-env)")
    opened = _accepted(door, guarded[:3], wrong_places(door.key)[place])
    judge(
        Finding(id=f"key-in-wrong-place:{place}:{way.name}", severity="medium", message=f"accepts the key in {place}")
        for way, _ in opened
    )


@with_key
def test_a_key_in_the_address_is_not_accepted(door: Door, guarded: list[Way], judge: Judge) -> None:
    """Addresses are written to logs and histories, so keys do not belong there (RFC 6750, section 5.3)."""
    if not door.key:
        pytest.skip("the API key was not given (--vllm-api-key-env)")
    found = []
    # Every character is escaped, so that the key itself does not get into the logs of the server and of gateways.
    escaped = "".join(f"%{byte:02X}" for byte in door.key.encode())
    for name in ("key", "api_key", "api-key", "apikey", "token", "access_token", "authorization"):
        for way in guarded[:2]:
            answer = door.ask(way, target=f"{way.path}?{name}={escaped}")
            if door.opens(way, answer):
                message = f"accepts the key as {name}= in the query"
                found.append(Finding(id=f"key-in-query:{name}:{way.name}", severity="medium", message=message))
    judge(found)


@with_key
def test_the_right_key_opens_every_guarded_route(door: Door) -> None:
    """No route of the API refuses the key with 401, unless every path does.

    Only requests whose effect is known are sent with the key: other routes may delete something, or need another credential.
    """
    if not door.key:
        pytest.skip("the API key was not given (--vllm-api-key-env)")
    routes = [Route(method=way.method, path=way.path) for way in _ONE_A_ROUTE.values()]
    if door.server.routes:
        routes = [route for route in routes if route.method in door.server.routes.get(route.path, ())]
    if door.server.is_vllm:
        routes += [route for route in catalogue().routes(door.server) if _only_reads(door.server, route)]
    answers = zip(routes, together(lambda each: _asked(door, each), routes), strict=True)
    refused = [str(route) for route, answer in answers if answer.status == 401]
    strange = door.absent("/", "GET")[1].status == 401
    assert strange or not refused, f"these routes refuse the correct key: {refused}"


def _only_reads(server: ServerFacts, route: Route) -> bool:
    """Whether it is a GET of the server's document that :data:`WAYS` does not have."""
    return route.method == "GET" and route.path in server.routes and str(route) not in _ONE_A_ROUTE


def _asked(door: Door, route: Route) -> RawResponse:
    """The response to a route with the key."""
    if way := _ONE_A_ROUTE.get(str(route)):
        return door.with_the_key(way)
    return door.send(route.target, headers=door.with_key)


@with_key
@pytest.mark.parametrize("path", ["/v1/models", "/v1/completions", "/v1/chat/completions"])
def test_no_spelling_of_a_path_gets_past_the_guard(door: Door, judge: Judge, path: str) -> None:
    """An access check that parses a path differently than the router can be bypassed."""
    ways = [
        way
        for way in WAYS
        if way.path == path and way.name in ("models", "chat", "chat-stream", "completions", "completions-stream")
    ]
    tried = [(way, target) for way in ways for target in spellings(path)]
    answers = together(lambda each: door.ask(each[0], target=each[1]), tried)
    opened = {target for (way, target), answer in zip(tried, answers, strict=True) if door.opens(way, answer)}
    if door.opens(ways[0], door.ask(ways[0])):
        opened.clear()  # the path itself is open, which another case says
    judge(
        Finding(id=f"path-trick:{target}", severity="critical", message=f"bypasses the access check of {path}")
        for target in sorted(opened)
    )


@with_key
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "POST", "GET", "get", "QUERY"])
def test_no_other_method_gets_past_the_guard(door: Door, judge: Judge, method: str) -> None:
    """No other method returns content without a key, or reflects the request (TRACE)."""
    found = []
    for way in (way for way in WAYS if way.name in ("models", "chat", "completions")):
        if method == way.method or door.opens(way, door.ask(way)):
            continue
        answer = door.ask(way, [("X-Trace-Word", "trace-word-71")], method=method)
        if _leaks(door, way, method, answer):
            message = f"{method} {way.path} is answered {_shown(answer)} without a key"
            found.append(Finding(id=f"method-trick:{method}:{way.path}", severity="high", message=message))
    judge(found)


def _leaks(door: Door, way: Way, method: str, answer: RawResponse) -> bool:
    if method == "TRACE":
        return answer.status == 200 and "trace-word-71" in answer.text
    if method == "HEAD":  # answered as GET would be, without its body (RFC 9110, section 9.3.2)
        length = answer.headers.get("content-length", "")
        full = door.with_the_key(way)
        whole = way.method == "GET" and door.opens(way, full)
        return whole and answer.status == 200 and length.isdecimal() and abs(int(length) - len(full.body)) <= _VARIES
    return door.opens(way, answer)


_VARIES = 4
"""Bytes by which two lists of the same models may differ, for their times."""


@with_key
def test_a_refusal_tells_nothing(door: Door) -> None:
    """The error contains no part of the key and no traceback."""
    key = door.key or "no-key-was-given"
    answer = door.ask(_MODELS, [("Authorization", f"Bearer {key[:-1]}")])
    assert answer.status, f"a request with a wrong key gets {answer}"
    assert len(key) < 4 or key[:-1] not in answer.text, "the error repeats the key that was sent"
    assert key[:-1] not in str(answer.headers), "a header repeats the key that was sent"
    assert "Traceback" not in answer.text, "the error contains a traceback"


@with_key
def test_a_refusal_does_not_tell_which_models_exist(client: ApiClient, door: Door, judge: Judge) -> None:
    """Without the key, a served and an unknown model get the same answer."""
    way = next(way for way in WAYS if way.path == (CHAT if client.is_chat else COMPLETIONS))
    real, unknown = door.ask(way), door.ask(way, model="no-such-model")
    same = evidence.alike(real, unknown, door.server.model, "no-such-model")
    message = f"without the key a served model is answered {_shown(real)}, an unknown one {_shown(unknown)}"
    judge([] if same or door.opens(way, real) else [Finding(id="model-oracle", severity="low", message=message)])


_JSON = {"content-type": "application/json"}


def _accepted(door: Door, ways: Iterable[Way], headers: list[tuple[str, str]]) -> list[tuple[Way, str]]:
    """Ways that are served with these headers, with what they return."""
    todo = list(ways)
    answers: list[Any] = together(lambda way: door.ask(way, headers), todo)
    return [(way, _shown(answer)) for way, answer in zip(todo, answers, strict=True) if door.opens(way, answer)]


def _shown(answer: RawResponse) -> str:
    return " ".join(str(answer).split())[:100]
