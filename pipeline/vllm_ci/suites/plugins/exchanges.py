"""Plugin that records the last request and its response for a case that did not pass."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import httpx
import pytest

from vllm_ci.suites.client import ApiClient

_EXCERPT = 2000
KEY = "exchange"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Add the property ``exchange``, unless the case has recorded one itself."""
    outcome = yield
    report = outcome.get_result()
    client = getattr(item, "funcargs", {}).get("client")
    if not isinstance(client, ApiClient):
        return
    recorded = any(name == KEY for name, _ in report.user_properties)
    elsewhere = call.excinfo is not None and not getattr(call.excinfo.value, "of_client", True)
    if elsewhere:
        client.exchanges.clear()
    if report.failed and client.exchanges and not recorded:
        report.user_properties.append((KEY, exchange(client.exchanges[-1])))
    if call.when == "teardown":
        client.exchanges.clear()


def sent(method: str, path: str, body: bytes, response: str) -> dict[str, str]:
    """The property ``exchange`` of a request that did not go through the client, for ``record_property``."""
    text = body[: 4 * _EXCERPT].decode("utf-8", "replace")
    return {"request": f"{method} {path}\n{text[:_EXCERPT]}".rstrip(), "response": response[:_EXCERPT]}


def exchange(last: httpx.Response | httpx.Request) -> dict[str, str]:
    """Request and response, if there was one, as text, without headers, which may hold the key."""
    request = last if isinstance(last, httpx.Request) else last.request
    sent = request.content.decode("utf-8", "replace")
    found = {"request": f"{request.method} {request.url.path}\n{sent[:_EXCERPT]}".rstrip()}
    if isinstance(last, httpx.Response):
        found["response"] = f"{last.status_code} {last.reason_phrase}\n{last.text[:_EXCERPT]}".rstrip()
    return found
