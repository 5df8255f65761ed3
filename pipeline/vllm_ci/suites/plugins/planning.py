"""Plugin that fits a suite into its time budget: it measures the server, estimates the time, and plans the cases.

Two marks: ``sized(tokens=(48, 12))`` for a case that can run smaller (its full and its smallest size; the fixture ``size``
gives the planned one), ``deep`` for one that may be left out. All other cases always run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from vllm_ci.suites import connecting, manifest
from vllm_ci.suites.plugins import budget
from vllm_ci.suites.plugins.reporter import case_name
from vllm_ci.suites.plugins.stash import FACTS
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.speed import Speed, Unmeasured, measure
from vllm_ci.suites.work import DIMENSIONS, CaseCost, Sizes

BUDGET_S = 90.0
_VARIABLE = "VLLM_CI_BUDGET"
_CONTEXT_RECORDED = 2048
"""``max_model_len`` of the server that the costs in the manifest were recorded with."""
_ANSWERS = 4.0
"""A response may take this many times as long as estimated."""
_MOST = 3.0
"""A suite stops after this many times its budget, however slow the server is; cases that have not begun are left out."""
_MOST_LEAST_S = 240.0
"""It does not stop before this time."""
_SLOWER = 3.0
"""Timeouts are extended for a server that became slower than measured, up to this factor."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("vllm-ci").addoption(
        "--vllm-budget",
        metavar="SECONDS",
        type=float,
        default=os.environ.get(_VARIABLE, BUDGET_S),
        help=f"time budget: to fit, cases run smaller and `deep` ones are left out; 0 for no limit ({BUDGET_S:.0f})",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks, and register the planner."""
    config.addinivalue_line(
        "markers",
        "sized(tokens=, streams=, times=): (full, smallest) sizes of the case; the fixture `size` gives the planned ones",
    )
    config.addinivalue_line("markers", "deep: may be left out to fit the time budget")
    config.addinivalue_line("markers", "fills_context: its prompts are as long as the server allows")
    if config.option.vllm_budget < 0:
        raise pytest.UsageError(f"--vllm-budget: invalid time: {config.option.vllm_budget:g} s; use 0 for no limit")
    config.pluginmanager.register(Planner(config), "vllm-ci-planner")


@pytest.fixture
def size(request: pytest.FixtureRequest) -> Sizes:
    """Planned number of tokens, streams and repetitions of this case: those of its mark `sized`, or less."""
    planner: Any = request.config.pluginmanager.get_plugin("vllm-ci-planner")
    sizes: Sizes = planner.sizes(request.node)
    return sizes


@pytest.fixture(scope="session")
def answer_s(pytestconfig: pytest.Config) -> float:
    """Timeout for one response, in seconds."""
    planner: Any = pytestconfig.pluginmanager.get_plugin("vllm-ci-planner")
    return float(planner.answer_s)


@pytest.fixture(scope="session")
def patience(pytestconfig: pytest.Config) -> Callable[[float], float]:
    """A function that extends a timeout if the server is slow, so that a slow server does not fail."""
    planner: Any = pytestconfig.pluginmanager.get_plugin("vllm-ci-planner")
    slowness: float = planner.slowness
    return lambda seconds: seconds * slowness


class Planner:
    """Plans this run."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._plan: budget.Plan | None = None
        self._speed: Speed | None = None
        self._first: Speed | None = None
        self._trouble = ""
        self._loads: dict[str, budget.Load] = {}
        self._kept: set[str] = set()
        self._begun: float | None = None
        self._since = 0.0
        self._expected_s = 0.0
        self._left_out: list[str] = []

    @property
    def slowness(self) -> float:
        """See :attr:`Speed.slowness`; 1 when the speed is unknown.

        The speed as it was measured at first counts, and up to :data:`_SLOWER` times that: a hostile request that keeps the
        server busy for minutes makes the rest of the plan slow, and must not make every timeout long.
        """
        if self._speed is None or self._first is None:
            return 1.0
        return min(self._speed.slowness, self._first.scaled(_SLOWER).slowness)

    @property
    def answer_s(self) -> float:
        """Timeout for one response: the option, or the default, extended if the server is slow."""
        if self._config.option.vllm_timeout is not None:
            return float(self._config.option.vllm_timeout)
        return max(connecting.TIMEOUT_S * self.slowness, self.longest_s)

    @property
    def longest_s(self) -> float:
        """Time that no planned case should exceed; 0 without a plan."""
        return _ANSWERS * max(self._plan.estimates_s.values(), default=0.0) if self._plan else 0.0

    def sizes(self, item: pytest.Item) -> Sizes:
        """Planned sizes of a case; the full ones if there is no plan."""
        planned = self._plan.sizes.get(_name(item)) if self._plan else None
        return planned or work_of(item, 0).full

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Measure the server, plan, and sort the cases."""
        base_url = self._config.getoption("base_url", None)
        known = any(manifest.rounds(manifest.function_of(_name(item))) for item in items)
        if not known or not base_url or self._config.option.collectonly or hasattr(self._config, "workerinput"):
            return
        try:
            with connecting.http(self._config, base_url, self.answer_s) as client:
                server = connecting.server(self._config, client)
                found = self._measured(server)
        except Exception as error:  # noqa: BLE001 - every case will report the same error
            self._trouble = f"the server's speed is unknown: {error!r}"
            return
        if isinstance(found, Unmeasured):
            self._trouble = f"the server's speed is unknown: {found.why}"
        else:
            self._speed = self._first = found
        required = {name.strip() for name in self._config.option.vllm_require.split(",")}
        loads = [_load(item, server, required) for item in items]
        self._loads = {load.name: load for load in loads}
        self._kept = {_name(item) for item in items if _needs(item) & required}
        self._plan = budget.make(loads, self._speed, self._config.option.vllm_budget)
        places = {name: place for place, name in enumerate(self._plan.order)}
        items.sort(key=lambda item: places[_name(item)])
        self._note()

    def _measured(self, server: ServerFacts) -> Speed | Unmeasured:
        if not (server.can("completions") or server.can("chat")):
            return Unmeasured(why="it supports neither chat nor completions")
        with connecting.recorder(self._config, server.url, self.answer_s) as recorder:
            chat = not server.can("completions")
            return measure(recorder, model=server.model, chat=chat, max_model_len=server.max_model_len)

    def pytest_report_collectionfinish(self, items: Sequence[pytest.Item]) -> list[str]:
        """Print the estimated time."""
        return self.summary(len(items))

    def summary(self, count: int) -> list[str]:
        """Lines with the number of cases, the estimated time, and what is left out."""
        if self._plan is None or self._speed is None:
            return [self._trouble] if self._trouble else []
        plan, facts = self._plan, self._speed.facts
        line = f"{count} cases, about {max(plan.estimate_s, 1):.0f} s"
        if plan.budget_s:
            line += f" (budget {plan.budget_s:.0f} s)"
        lines = [f"{line}; {facts['tokens_per_s']:g} tokens/s alone, {facts['tokens_per_s_together']:g} together"]
        if plan.left_out:
            lines.append(f"left out for time: {len(plan.left_out)} cases; run with --deep, or raise the budget")
        if plan.budget_s and plan.estimate_s > plan.budget_s:
            lines.append("that is more than the budget, because the cases that always run take this long on this server")
        return lines

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip cases that do not fit."""
        name = _name(item)
        if self._plan is None or name not in self._loads:
            return
        self._replan(time.monotonic())
        del self._loads[name]
        if name in self._plan.left_out:
            self._leave_out(name, self._plan.why(name))
        elapsed_s = time.monotonic() - (self._begun or time.monotonic())
        if elapsed_s > self.bound_s and name not in self._kept:
            why = f"left out for time: the suite has taken {elapsed_s:.0f} s of a budget of {self._plan.budget_s:.0f} s"
            self._leave_out(name, f"{why}; run with --deep")
        self._expected_s += self._plan.estimates_s[name]

    @property
    def bound_s(self) -> float:
        """Seconds after which no further case begins."""
        budget_s = self._config.option.vllm_budget
        return max(_MOST * budget_s, _MOST_LEAST_S) + self._config.option.vllm_deep if budget_s else float("inf")

    def not_counted(self, seconds: float) -> None:
        """Take time out of the budget in which no case could run: the server was gone, and was waited for."""
        if self._begun is not None:
            self._begun += seconds
            self._since += seconds

    def _leave_out(self, name: str, why: str) -> None:
        self._left_out.append(name)
        self._config.stash[FACTS]["plan"]["left_out"] = self._left_out
        pytest.skip(why)

    def _replan(self, now: float) -> None:
        """Plan the remaining cases again if the server is slower or faster than measured."""
        if self._begun is None:
            self._begun = self._since = now
        factor = budget.deviation(self._expected_s, now - self._since)
        if self._plan is None or self._speed is None or factor is None or not self._plan.budget_s:
            return
        self._speed = self._speed.scaled(factor)
        self._since, self._expected_s = now, 0.0
        total_s = self._plan.budget_s
        left_s = max(total_s - (now - self._begun), 0.001)  # 0 would be no limit
        self._plan = replace(budget.make(list(self._loads.values()), self._speed, left_s), budget_s=total_s)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """List the cases that were left out."""
        if self._left_out and self._plan:
            terminalreporter.section("left out for time (run with --deep)")
            for name in self._left_out:
                terminalreporter.write_line(name)

    def _note(self) -> None:
        if self._plan is None:
            return
        plan = {
            "cases": len(self._plan.order),
            "budget_s": self._plan.budget_s,
            "estimate_s": round(self._plan.estimate_s, 1),
            "fraction": round(self._plan.fraction, 3),
            "left_out": list(self._plan.left_out),
            "speed": self._speed.facts if self._speed else self._trouble,
        }
        self._config.stash[FACTS]["plan"] = plan
        recorder: Any = self._config.pluginmanager.get_plugin("vllm-ci-recorder")
        if recorder is not None:
            recorder.append({"plan": plan})


def work_of(item: pytest.Item, max_model_len: int) -> CaseCost:
    """The cost of a case: as recorded in the manifest, with the sizes of its mark."""
    rounds = manifest.rounds(manifest.function_of(_name(item))) or ()
    mark = item.get_closest_marker("sized")
    given: dict[str, tuple[int, int]] = dict(mark.kwargs) if mark else {}
    assert set(given) <= set(DIMENSIONS), f"sized() takes {', '.join(DIMENSIONS)}, not {sorted(set(given) - set(DIMENSIONS))}"
    full, least = (Sizes(**{name: pair[place] for name, pair in given.items()}) for place in (0, 1))
    work = CaseCost(rounds=rounds, full=full, least=least)
    grows = item.get_closest_marker("fills_context") is not None and max_model_len > 0
    return work.with_prompts(max_model_len / _CONTEXT_RECORDED) if grows else work


def _load(item: pytest.Item, server: ServerFacts, required: set[str]) -> budget.Load:
    needs = _needs(item)
    runs = all(server.can(name) for name in needs)
    work = work_of(item, server.max_model_len)
    deep = item.get_closest_marker("deep") is not None and not needs & required
    return budget.Load(name=_name(item), work=work if runs else replace(work, rounds=()), deep=deep)


def _needs(item: pytest.Item) -> set[str]:
    return {str(name) for marker in item.iter_markers("requires_capability") for name in marker.args}


def _name(item: pytest.Item) -> str:
    return case_name(item.nodeid, item.location[0])
