"""Development routes are disabled, errors do not reveal details, and other sites cannot use or redirect clients."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

import pytest

from vllm_ci.suites.findings import ERRORS_SHOW_CODE, Finding
from vllm_ci.suites.security import details
from vllm_ci.suites.security.door import Door, together
from vllm_ci.suites.security.routes import catalogue
from vllm_ci.suites.security.ways import CHAT, COMPLETIONS, EMBEDDINGS

Judge = Callable[[Iterable[Finding]], None]

_ATTACKER = "attacker.example"
_JSON = ("Content-Type", "application/json")


def test_development_routes_are_off(door: Door, judge: Judge) -> None:
    """They are asked for in ways without effect, in several spellings, and compared with paths that cannot exist."""
    named = catalogue().development
    shown = together(door.development, named)
    message = "exists ({how}), and {why}; unset VLLM_SERVER_DEV_MODE, or do not forward it"
    judge(
        Finding(id=f"development-route:{path}", severity="high", message=message.format(how=how, why=named[path]))
        for path, how in zip(named, shown, strict=True)
        if how
    )


_HI = [{"role": "user", "content": "x"}]
_SELF = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}
_MISTAKES: dict[str, tuple[str, Any]] = {
    "bad JSON": (CHAT, b"{"),
    "an empty body": (CHAT, b""),
    "bytes that are no text": (CHAT, b'{"model": "\xff\xfe"}'),
    "a wrong type": (CHAT, {"model": [], "messages": {}}),
    "an unknown model": (CHAT, {"model": "no-such-model", "messages": _HI}),
    "a reference to itself": (CHAT, {"messages": _HI, "max_tokens": 1, "response_format": _SELF}),
    "a wrong number": (CHAT, {"messages": _HI, "temperature": -1}),
    "a wrong number, streamed": (CHAT, {"messages": _HI, "temperature": -1, "stream": True}),
    "a wrong schema, streamed": (CHAT, {"messages": _HI, "stream": True, "response_format": {"type": "json_schema"}}),
    "an unknown model, streamed": (CHAT, {"model": "no-such-model", "messages": _HI, "stream": True}),
    "a picture that is none": (
        CHAT,
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}
            ]
        },
    ),
    "a tool that is none": (CHAT, {"messages": _HI, "max_tokens": 1, "tools": [{"type": "function"}]}),
    "too long a prompt": (COMPLETIONS, {"prompt": "x " * 40_000, "max_tokens": 1}),
    "a prompt of wrong type": (COMPLETIONS, {"prompt": {"a": 1}}),
    "a prompt of wrong type, streamed": (COMPLETIONS, {"prompt": [[]], "stream": True}),
    "a wrong input": (EMBEDDINGS, {"input": {"a": 1}}),
    "half a surrogate pair": (
        CHAT,
        b'{"model": "MODEL", "messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 1}',
    ),
}


@pytest.mark.parametrize("mistake", _MISTAKES)
def test_errors_show_no_code(door: Door, judge: Judge, mistake: str) -> None:
    """Errors contain no stack traces, files or settings of the server, which would help an attacker (CWE-209)."""
    path, given = _MISTAKES[mistake]
    body = given.replace(b"MODEL", door.server.model.encode()) if isinstance(given, bytes) else _body(door, given)
    answer = door.send(path, method="POST", headers=[*door.with_key, _JSON], body=body)
    judge(_shown(door, answer.text, body.decode(errors="replace"), mistake))


@pytest.mark.parametrize("place", ["an unknown path", "a wrong method", "no key", "a bad request line", "a wrong media type"])
def test_errors_outside_of_routes_show_no_code(door: Door, judge: Judge, place: str) -> None:
    """Errors of the framework and of a gateway are seen by everybody."""
    requests: dict[str, dict[str, Any]] = {
        "an unknown path": {"target": "/no/such/path"},
        "a wrong method": {"target": CHAT, "method": "DELETE"},
        "no key": {"target": "/v1/models"},
        "a bad request line": {"target": "/%", "method": "BR EW"},
        "a wrong media type": {
            "target": CHAT,
            "method": "POST",
            "body": b"x",
            "headers": [*door.with_key, ("Content-Type", "text/x")],
        },
    }
    answer = door.send(**requests[place])
    # A list of models is no error: where no key is needed, it is what was asked for.
    judge(_shown(door, answer.text, str(requests[place]), place) if answer.status >= 400 else [])


def _body(door: Door, fields: dict[str, Any]) -> bytes:
    return json.dumps({"model": door.server.model, "max_tokens": 1, **fields}).encode()


def _shown(door: Door, text: str, sent: str, mistake: str) -> list[Finding]:
    found = details.shown(text, sent, (*door.server.models, urlsplit(door.server.url).path))
    return [
        Finding(
            id=f"{kind}:{mistake}", severity="medium", message=f"the error for {mistake} shows {what}", cause=ERRORS_SHOW_CODE
        )
        for kind, what in found.items()
    ]


def _origins(host: str) -> dict[str, str]:
    """Origins that a careless comparison takes for the server's own or for an allowed one."""
    return {
        "another": f"https://{_ATTACKER}",
        "null": "null",
        "suffix": f"https://{host}.{_ATTACKER}",
        "prefix": f"https://evil{host}",
        "dots": f"https://{host.replace('.', 'x')}",
        "localhost-suffix": f"http://localhost.{_ATTACKER}",
        "user-info": f"https://{host}@{_ATTACKER}",
        "file": "file://",
    }


@pytest.mark.parametrize("origin", _origins("h"))
def test_no_cross_origin_credentials(door: Door, judge: Judge, origin: str) -> None:
    """Other web pages must not be able to use credentials that a browser has for this server (Fetch standard, CORS)."""
    given = _origins(urlsplit(door.server.url).hostname or "")[origin]
    asked = [("Origin", given), ("Cookie", "session=1")]
    preflight = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization")]
    answers = [
        door.send("/v1/models", headers=[*door.with_key, *asked]),
        door.send(CHAT, method="OPTIONS", headers=[*asked, *preflight]),
    ]
    found = []
    for answer in answers:
        allowed = answer.headers.get("access-control-allow-origin", "")
        credentials = answer.headers.get("access-control-allow-credentials", "").lower() == "true"
        if credentials and allowed in ("*", given):
            message = f"allows credentials for the origin {given}; list your origins with --allowed-origins"
            found.append(Finding(id=f"cors-credentials:{origin}", severity="medium", message=message))
    judge(found[:1])


_UP = 8
_CLIMBS = {
    "dots": f"{'/..' * _UP}/etc/passwd",
    "dots-in-static": f"/static{'/..' * _UP}/etc/passwd",
    "dots-in-assets": f"/assets{'/..' * _UP}/etc/passwd",
    "encoded-slashes": f"/{'..%2f' * _UP}etc%2fpasswd",
    "encoded-slashes-in-static": f"/static/{'..%2f' * _UP}etc/passwd",
    "encoded-dots": f"/static{'/%2e%2e' * _UP}/etc/passwd",
    "encoded-twice": f"/static/{'%252e%252e%252f' * _UP}etc%252fpasswd",
    "backslashes": f"/static/{'..%5c' * _UP}etc%5cpasswd",
    "doubled-dots": f"/static/{'....//' * _UP}etc/passwd",
    "absolute": "/static//etc/passwd",
    "model": f"/v1/models/{'..%2f' * _UP}etc%2fpasswd",
}


@pytest.mark.parametrize("climb", _CLIMBS)
def test_no_path_reads_a_file_of_the_server(door: Door, judge: Judge, climb: str) -> None:
    """A path that climbs out of a folder of static files reads any file (CWE-22)."""
    answer = door.send(_CLIMBS[climb], headers=door.with_key)
    reads = answer.status in (200, 206) and "root:" in answer.text and ":0:" in answer.text
    message = f"GET {_CLIMBS[climb]} returns /etc/passwd of the server"
    judge([Finding(id=f"path-traversal:{climb}", severity="critical", message=message)] if reads else [])


_REDIRECTS = {
    "two-slashes": f"//{_ATTACKER}/..",
    "two-slashes-encoded": f"//{_ATTACKER}/%2e%2e",
    "two-slashes-models": f"//{_ATTACKER}/v1/models/",
    "backslash": f"/\\{_ATTACKER}",
    "encoded-slashes": f"/%2f%2f{_ATTACKER}",
    "encoded-backslash": f"/%5c{_ATTACKER}/",
    "scheme": f"/https://{_ATTACKER}/",
    "at-sign": f"/@{_ATTACKER}/",
    "next": f"/v1/models/?next=https://{_ATTACKER}&url=https://{_ATTACKER}&redirect=https://{_ATTACKER}",
}


@pytest.mark.parametrize("trick", _REDIRECTS)
def test_nobody_is_redirected_to_another_site(door: Door, judge: Judge, trick: str) -> None:
    """A redirect to a site that the address names sends clients, and their keys, there (CWE-601)."""
    answer = door.send(_REDIRECTS[trick], headers=door.with_key)
    target = answer.headers.get("location", "").replace("\\", "/")
    leads = 300 <= answer.status < 400 and (urlsplit(target).hostname or "") == _ATTACKER
    message = f"GET {_REDIRECTS[trick]} is redirected to {target}"
    judge([Finding(id=f"open-redirect:{trick}", severity="high", message=message)] if leads else [])


@pytest.mark.parametrize("header", ["Host", "X-Forwarded-Host", "Forwarded", "X-Host", "X-Original-Host"])
def test_no_address_is_made_of_a_header(door: Door, judge: Judge, header: str) -> None:
    """A redirect or a link made of such a header leads to another site once a cache keeps it.

    ``Host`` is what frameworks make redirects of, and clients send it themselves: of low severity. The others are for proxies.
    """
    value = f"host={_ATTACKER}" if header == "Forwarded" else _ATTACKER
    severity = "low" if header == "Host" else "medium"
    found = []
    for path in ("/v1/models/", "/v1/models", "/", "/docs", "/openapi.json"):
        answer = door.send(path, headers=[*door.with_key, (header, value)])
        if _ATTACKER in answer.headers.get("location", "") or _ATTACKER in answer.text:
            message = f"{header}: {_ATTACKER} comes back in the response to GET {path}, {answer.status}"
            found.append(Finding(id=f"host-reflected:{header}", severity=severity, message=message))
    judge(found[:1])
