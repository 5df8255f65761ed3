"""Fixtures of the gRPC suite."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from vllm_ci.suites.connecting import api_key
from vllm_ci.suites.grpc.address import parse
from vllm_ci.suites.grpc.alive import Life
from vllm_ci.suites.grpc.client import Engine
from vllm_ci.suites.grpc.reaching import facts, reached
from vllm_ci.suites.plugins.exchanges import KEY
from vllm_ci.suites.plugins.reporter import case_name
from vllm_ci.suites.verdicts import NotRun

_LIFE = pytest.StashKey[Life]()
_USES = "engine"


@pytest.fixture(scope="session")
def engine(pytestconfig: pytest.Config, note: Callable[[str, object], None]) -> Iterator[Engine]:
    """The service, reached once per session."""
    with ExitStack() as stack:
        found = reached(parse(pytestconfig.option.vllm_grpc), key=api_key(pytestconfig), stack=stack)
        note("server", facts(found))
        yield found


def _life(config: pytest.Config) -> Life:
    return config.stash.setdefault(_LIFE, Life(float(config.option.vllm_return)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Do not run cases against a server that is gone."""
    _life(item.config).require()


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Add the last request to the report of a case that did not pass, and look whether the server still works."""
    outcome = yield
    report = outcome.get_result()
    found = getattr(item, "funcargs", {}).get(_USES)
    if not report.failed or call.excinfo is None or call.excinfo.errisinstance(NotRun) or not isinstance(found, Engine):
        return
    if found.last and not any(name == KEY for name, _ in report.user_properties):
        report.user_properties.append((KEY, dict(found.last)))
    if (end := _life(item.config).look(found, case_name(item.nodeid, item.location[0]))) is None:
        return
    before = getattr(report, "vllm_message", "")
    said = end["cause"]["title"]
    vars(report).update(vllm_status="failed", vllm_message=f"{said}; seen first: {before}" if before else said)
    report.user_properties += list(end.items())
