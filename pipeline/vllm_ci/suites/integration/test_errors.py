"""Invalid requests get an error message, and the server keeps working."""

from __future__ import annotations

from collections.abc import Iterable

import httpx
import pytest

from vllm_ci.suites.client import ApiClient, at_once, shown
from vllm_ci.suites.findings import Finding
from vllm_ci.suites.integration import refusals
from vllm_ci.suites.integration.refusals import BAD, BAD_BODIES, CHAT, Bad, ErrorBodyError, Judge, crash
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.verdicts import Fault, inconclusive

_JSON = {"content-type": "application/json"}
_TOGETHER = 8


def _case(bad: Bad) -> object:
    surface = "chat" if bad.path == CHAT else "completions"
    return pytest.param(bad, id=bad.name, marks=pytest.mark.requires_capability(surface, *bad.needs))


@pytest.mark.parametrize("bad", [_case(bad) for bad in BAD])
def test_a_bad_field_is_refused_and_named(client: ApiClient, server: ServerFacts, crashed: Judge, bad: Bad) -> None:
    """The refusal has a status for a mistake of the client, and a message."""
    if bad.endless and not server.is_vllm:
        pytest.skip("several servers document that this value means an answer without an end")
    answer = client.sent(bad.path, bad.body(client))
    if answer.status_code >= 500:
        crashed([crash(bad.name, answer)])
        return
    if answer.status_code == 200:
        _taken(server, bad, answer)
        return
    assert answer.status_code in bad.statuses, f"expected {' or '.join(map(str, bad.statuses))}: {shown(answer)}"
    if not refusals.is_page(answer):
        refusals.message(answer)


@pytest.mark.requires_capability("text")
@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_is_refused(client: ApiClient, crashed: Judge, name: str) -> None:
    """The response to any invalid body is 4xx."""
    answers = [_posted(client, body) for body in BAD_BODIES[name]]
    crashed([crash(f"body-{name}", answer) for answer in answers if answer.status_code >= 500][:1])
    for answer in answers:
        if answer.status_code < 500:
            assert answer.status_code in (400, 415, 422), (
                f"the body {answer.request.content[:40]!r} is answered {shown(answer)}"
            )
            refusals.message(answer)


@pytest.mark.requires_capability("text")
def test_refusals_leave_the_server_working(client: ApiClient, server: ServerFacts) -> None:
    """A valid request works after every kind of invalid one."""
    bad = [each for each in BAD if server.can("chat" if each.path == CHAT else "completions")]
    bad = [each for each in bad if server.is_vllm or not each.endless]

    def refused(each: Bad) -> None:
        client.sent(each.path, each.body(client))

    for at in range(0, len(bad), _TOGETHER):
        at_once(refused, bad[at : at + _TOGETHER])
    try:
        client.works()
    except Fault as error:
        raise Fault(f"{error}, after invalid requests{_culprits(client, bad)}") from error


def test_valid_requests_get_no_server_error(server: ServerFacts, judge: Judge) -> None:
    """The requests by which the capabilities were found are valid; what a server does not support, it refuses with 4xx."""
    findings = [
        Finding(
            id=f"server-error:probe-{name}", severity="medium", message=f"a valid request ({name}) gets a server error: {how}"
        )
        for name, how in sorted(server.broken.items())
        if name not in server.unknown
    ]
    if server.unknown and not findings:
        inconclusive(f"{', '.join(sorted(server.unknown))}: {next(iter(server.unknown.values()))}")
    judge(findings)


@pytest.mark.requires_capability("text")
def test_another_content_type_is_refused(client: ApiClient, server: ServerFacts, judge: Judge, crashed: Judge) -> None:
    """A browser form must not be accepted as an API call (cross-site requests cannot set this header)."""
    answer = client.http.post(client.path, json=client.body("hello", max_tokens=1), headers={"content-type": "text/plain"})
    if answer.status_code >= 500:
        crashed([crash("content-type", answer)])
        return
    message = "a request with the content type text/plain is answered, so a page in a browser can send it"
    severity = "medium" if server.is_vllm else "low"  # vLLM documents the refusal
    taken = answer.status_code == 200
    judge([Finding(id=f"content-type-ignored:POST {client.path}", severity=severity, message=message)] if taken else [])


def test_an_unknown_route_is_not_found(client: ApiClient) -> None:
    """The response is 404, from the server or from a gateway."""
    answer = client.get("/v1/no-such-route")
    assert answer.status_code in (403, 404, 405, 501), shown(answer)
    if not refusals.is_page(answer):
        refusals.message(answer)


@pytest.mark.requires_capability("text")
def test_the_wrong_method_is_not_allowed(client: ApiClient) -> None:
    """The response to a GET is 405 or 404 if the route requires a POST; OpenAI lists stored completions here."""
    answer = client.get(client.path)
    is_list = answer.status_code == 200 and '"list"' in answer.text
    assert is_list or answer.status_code in (400, 403, 404, 405, 501), shown(answer)
    if not is_list and not refusals.is_page(answer):
        refusals.message(answer)


@pytest.mark.requires_capability("text")
def test_the_refusal_of_an_unknown_model_names_it(client: ApiClient, server: ServerFacts) -> None:
    """A wrong model name is the most common mistake, so the message must help."""
    answer = client.sent(client.path, {**client.body("hello", max_tokens=1), "model": "no-such-model"})
    if not server.is_vllm and (answer.status_code == 200 or "no-such-model" not in answer.text):
        pytest.skip(f"only vLLM promises to name it: {shown(answer)}")
    if answer.status_code != 200:
        refusals.message(answer)
    assert "no-such-model" in answer.text, f"the refusal does not name the model: {shown(answer)}"


@pytest.mark.requires_capability("text")
def test_refusals_are_json(client: ApiClient) -> None:
    """Clients must be able to parse the error."""
    answer = client.sent(client.path, {"model": client.model, "max_tokens": 1})
    kind = answer.headers.get("content-type", "")
    if answer.status_code < 500 and "json" not in kind:
        raise ErrorBodyError(f"the content type of the error is {kind!r}: {shown(answer)}")


def _taken(server: ServerFacts, bad: Bad, answer: httpx.Response) -> None:
    """An invalid request was answered with 200.

    Raises:
        Fault: It must be refused, or the answer holds an error.
    """
    if inside := refusals.error_inside(answer):
        raise Fault(f"an invalid request is answered with status 200 and {inside}")
    if bad.may_pass(is_vllm=server.is_vllm):
        pytest.skip(f"the server takes {bad.name.replace('-', ' ')}; not every server promises to refuse it")
    raise Fault(f"expected {' or '.join(map(str, bad.statuses))}: {shown(answer)}")


def _posted(client: ApiClient, body: bytes) -> httpx.Response:
    try:
        return client.http.post(client.path, content=body, headers=_JSON)
    except httpx.HTTPError as error:
        raise Fault(f"the body {body[:40]!r} gets no answer: {error or type(error).__name__}") from error


def _culprits(client: ApiClient, bad: Iterable[Bad]) -> str:
    """Names of the invalid requests that a valid one fails after; empty if none does so alone."""
    names = []
    for each in bad:
        try:
            client.sent(each.path, each.body(client))
            client.works()
        except Fault:
            names.append(each.name)
        if len(names) > 2:
            break
    return f": {', '.join(names)}" if names else ""
