"""Development routes are disabled, and errors do not reveal details."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vllm_ci.suites.client import at_once
from vllm_ci.suites.findings import Finding
from vllm_ci.suites.raw import send
from vllm_ci.suites.security.routes import catalogue
from vllm_ci.suites.server import ServerFacts

Judge = Callable[[Iterable[Finding]], None]


def test_development_routes_are_off(server: ServerFacts, api_key: str, judge: Judge) -> None:
    """They are requested with a method that none of them supports, so that the request has no effect."""
    header = {"authorization": f"Bearer {api_key}"} if api_key else {}
    named = catalogue().development
    statuses = at_once(lambda path: send(server.url, path, method="PUT", headers=header).status, named)
    there = [path for path, status in zip(named, statuses, strict=True) if status == 405 or path in server.routes]
    judge(
        Finding(
            id=f"development-route:{path}", severity="high", message=f"exists, and {named[path]}; unset VLLM_SERVER_DEV_MODE"
        )
        for path in there
    )


def test_errors_show_no_code(server: ServerFacts, api_key: str, judge: Judge) -> None:
    """Errors contain no tracebacks or file names, which would help an attacker."""
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
            found.append(
                Finding(
                    id=f"traceback:{name}",
                    severity="medium",
                    message=f"the error for {name} contains a traceback or file names",
                )
            )
    judge(found)


def test_no_cross_origin_credentials(server: ServerFacts, api_key: str, judge: Judge) -> None:
    """Other web pages must not be able to use credentials that a browser has for this server."""
    header = {"authorization": f"Bearer {api_key}"} if api_key else {}
    answer = send(server.url, "/v1/models", headers={**header, "origin": "https://attacker.example"})
    allowed = answer.headers.get("access-control-allow-origin", "")
    credentials = answer.headers.get("access-control-allow-credentials", "") == "true"
    reflected = credentials and allowed in ("*", "https://attacker.example")
    message = "allows credentials for any origin; list your origins with --allowed-origins"
    judge([Finding(id="cors-credentials", severity="medium", message=message)] if reflected else [])
