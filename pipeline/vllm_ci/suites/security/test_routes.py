"""What is meant for development, and what tells strangers too much, is off."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vllm_ci.suites.client import at_once
from vllm_ci.suites.findings import Finding
from vllm_ci.suites.raw import send
from vllm_ci.suites.security.routes import catalogue
from vllm_ci.suites.server import Server

Judge = Callable[[Iterable[Finding]], None]


def test_development_routes_are_off(server: Server, api_key: str, judge: Judge) -> None:
    """They are looked for with a method that none of them takes, so that nothing is put to sleep or emptied by looking."""
    header = {"authorization": f"Bearer {api_key}"} if api_key else {}
    named = catalogue().development
    statuses = at_once(lambda path: send(server.url, path, method="PUT", headers=header).status, named)
    there = [path for path, status in zip(named, statuses, strict=True) if status == 405 or path in server.routes]
    judge(
        Finding(
            id=f"development-route:{path}", severity="high", message=f"is there, and {named[path]}; unset VLLM_SERVER_DEV_MODE"
        )
        for path in there
    )


def test_errors_show_no_code(server: Server, api_key: str, judge: Judge) -> None:
    """Tracebacks and file names tell an attacker which code to read."""
    header = {"authorization": f"Bearer {api_key}"} if api_key else {}
    bodies = {
        "bad JSON": b"{",
        "a wrong type": b'{"model": [], "messages": {}}',
        "an unknown model": b'{"model": "no-such-model", "messages": [{"role": "user", "content": "x"}]}',
        "a reference to itself": b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "response_format": '
        b'{"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}}',
    }
    found = []
    for name, body in bodies.items():
        headers = {**header, "content-type": "application/json"}
        answer = send(server.url, "/v1/chat/completions", method="POST", headers=headers, body=body)
        text = answer.body.decode(errors="replace")
        if "Traceback (most recent call last)" in text or "site-packages" in text:
            found.append(Finding(id=f"traceback:{name}", severity="medium", message=f"an error after {name} shows the code"))
    judge(found)


def test_no_cross_origin_credentials(server: Server, api_key: str, judge: Judge) -> None:
    """A page of anybody's must not be able to use the key that a browser holds for this server."""
    header = {"authorization": f"Bearer {api_key}"} if api_key else {}
    answer = send(server.url, "/v1/models", headers={**header, "origin": "https://attacker.example"})
    allowed = answer.headers.get("access-control-allow-origin", "")
    credentials = answer.headers.get("access-control-allow-credentials", "") == "true"
    reflected = credentials and allowed in ("*", "https://attacker.example")
    message = "answers any origin with credentials allowed; name your origins with --allowed-origins"
    judge([Finding(id="cors-credentials", severity="medium", message=message)] if reflected else [])
