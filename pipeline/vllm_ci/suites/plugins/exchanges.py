"""Plugin that records the last request and its response for a case that did not pass."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import httpx
import pytest

from vllm_ci.suites.client import ApiClient

_EXCERPT = 2000
_KEY = "exchange"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Add the property ``exchange``, unless the case has recorded one itself."""
    outcome = yield
    report = outcome.get_result()
    client = getattr(item, "funcargs", {}).get("client")
    if not isinstance(client, ApiClient):
        return
    recorded = any(name == _KEY for name, _ in report.user_properties)
    if report.failed and client.exchanges and not recorded:
        report.user_properties.append((_KEY, exchange(client.exchanges[-1])))
    if call.when == "teardown":
        client.exchanges.clear()


def exchange(answer: httpx.Response) -> dict[str, str]:
    """Request and response as text, without headers, which may hold the key."""
    request = answer.request
    sent = request.content.decode("utf-8", "replace")
    return {
        "request": f"{request.method} {request.url.path}\n{sent[:_EXCERPT]}".rstrip(),
        "response": f"{answer.status_code} {answer.reason_phrase}\n{answer.text[:_EXCERPT]}".rstrip(),
    }
