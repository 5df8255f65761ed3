"""The plugin that notes which cases the user's own arguments took out (``-k``, ``--deselect``). Standard library and pytest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from vllm_ci.suites.plugins.reporter import case_name
from vllm_ci.suites.plugins.stash import FACTS

_KEY = "deselected"


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Keep their names for the report: they are not missing."""
    for item in items:
        facts = item.config.stash[FACTS]
        facts[_KEY] = [*facts.get(_KEY, ()), case_name(item.nodeid, item.location[0])]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist tells its controller, which collects nothing itself."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["vllm_deselected"] = session.config.stash[FACTS].get(_KEY, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """All workers collect the same, so the list of any of them is that of the run."""
    names = getattr(node, "workeroutput", {}).get("vllm_deselected")
    if names:
        node.config.stash[FACTS][_KEY] = names
