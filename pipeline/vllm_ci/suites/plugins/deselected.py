"""Plugin that records deselected cases (``-k``, ``--deselect``). Needs only the standard library and pytest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from vllm_ci.suites.plugins.reporter import case_name
from vllm_ci.suites.plugins.stash import FACTS

_KEY = "deselected"


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Record their names in the report, so that they do not count as missing."""
    for item in items:
        facts = item.config.stash[FACTS]
        facts[_KEY] = [*facts.get(_KEY, ()), case_name(item.nodeid, item.location[0])]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With pytest-xdist, send the names from the worker to the controller, which does not collect tests."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["vllm_deselected"] = session.config.stash[FACTS].get(_KEY, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the names from any worker: all workers collect the same tests."""
    names = getattr(node, "workeroutput", {}).get("vllm_deselected")
    if names:
        node.config.stash[FACTS][_KEY] = names
