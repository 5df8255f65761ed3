"""Plugin that gives cases one cause if they fail because the server mixes up answers.

A case with the marker ``compares_answers`` says nothing else while answers belong to other requests. The first of these that
fails has the server tested for that (:mod:`vllm_ci.suites.mixing`), once in a run.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import httpx
import pytest

from vllm_ci.suites import connecting
from vllm_ci.suites.client import ApiClient
from vllm_ci.suites.mixing import MixedUpError, Mixing
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.verdicts import Inconclusive

_TIMEOUT_S = 60.0
_FOUND = pytest.StashKey[Mapping[str, str] | None]()


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", "compares_answers: fails without a fault of its own if the server mixes up answers")


@pytest.hookimpl(hookwrapper=True, tryfirst=True)  # after the reporter, which records the cause of the exception
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Record the cause of a failed case that compares answers."""
    outcome = yield
    report = outcome.get_result()
    server = connecting.probed(item.config)
    if not report.failed or call.excinfo is None or server is None or item.get_closest_marker("compares_answers") is None:
        return
    if not call.excinfo.errisinstance((AssertionError, pytest.fail.Exception)):
        return
    if (cause := _cause(item.config, server, call.excinfo.value)) is not None:
        report.user_properties.append(("cause", dict(cause)))


def _cause(config: pytest.Config, server: ServerFacts, error: BaseException) -> Mapping[str, str] | None:
    if _FOUND not in config.stash:
        config.stash[_FOUND] = _tested(config, server)
    if config.stash[_FOUND] is None and isinstance(error, MixedUpError):
        config.stash[_FOUND] = error.cause
    return config.stash[_FOUND]


def _tested(config: pytest.Config, server: ServerFacts) -> Mapping[str, str] | None:
    try:
        with connecting.http(config, server.url, _TIMEOUT_S) as http:
            return Mixing(client=ApiClient(http=http, model=server.model, server=server)).cause()
    except (httpx.HTTPError, Inconclusive):
        return None
