"""Plugin that notices that the server is gone: the case that ended it fails, once, and no later case is run against nothing.

After each case that did not pass, one small valid request says whether the server still works. A server that comes back by
itself within a few seconds, as under a supervisor, is tested on.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from vllm_ci.suites import connecting
from vllm_ci.suites.client import ApiClient, shown
from vllm_ci.suites.ends import DIED, GONE, HANGS, case_id
from vllm_ci.suites.plugins.reporter import case_name
from vllm_ci.suites.plugins.stash import FACTS
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.verdicts import Inconclusive, NotRun

_TRIES = 3
_BETWEEN_S = 1.0
_ANSWER_S = 15.0
_RETURN_S = 10.0
_MOST_DEATHS = 5
_LOG_LINES = 25
_HANGS_S = 60.0
"""A server that answers again within this time was only busy; the case says by itself whether that was too long."""


class ServerGoneError(NotRun):
    """The case was not run, because the server is gone."""

    cause: ClassVar[Mapping[str, str]] = {"id": GONE}


@dataclass(frozen=True, kw_only=True)
class Death:
    """The end of the server.

    Attributes:
        case: Case during which it was noticed.
        how: What a valid request gets now.
        cause: Id of the cause: it died, or it hangs.
    """

    case: str
    how: str
    cause: str

    @property
    def said(self) -> str:
        """One sentence."""
        return f"the server {'died' if self.cause == DIED else 'does not answer any more'}: {self.how}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    option = parser.getgroup("vllm-ci").addoption
    option(
        "--vllm-return",
        metavar="SECONDS",
        type=float,
        default=_RETURN_S,
        help=f"wait this long for a server that died to come back by itself ({_RETURN_S:.0f})",
    )
    option("--vllm-cases", metavar="IDS", default="", help="run only these cases (SHA-256 of their names, first ten digits)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep only the cases of ``--vllm-cases``."""
    wanted = set(filter(None, config.option.vllm_cases.split(",")))
    if not wanted:
        return
    kept = [item for item in items if _id(item) in wanted]
    dropped = [item for item in items if _id(item) not in wanted]
    items[:] = kept
    config.hook.pytest_deselected(items=dropped)


def _id(item: pytest.Item) -> str:
    return case_id(case_name(item.nodeid, item.location[0]))


def pytest_configure(config: pytest.Config) -> None:
    """Register the watcher."""
    config.pluginmanager.register(Vital(config), "vllm-ci-vital")


class Vital:
    """Watches the server of a run."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._death: Death | None = None
        self._deaths = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Do not run a case against a server that is gone.

        Raises:
            ServerGoneError: It is gone.
        """
        if self._death is not None and self._asks(item):
            raise ServerGoneError(f"not run: {self._death.said} (seen first after {self._death.case})")
        if (error := connecting.unreachable(self._config)) is not None and self._asks(item):
            raise error

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
        """After a case that did not pass, look whether the server still works."""
        outcome = yield
        report = outcome.get_result()
        suspicious = report.failed and call.excinfo is not None and not call.excinfo.errisinstance(NotRun)
        server = connecting.probed(self._config)
        if not suspicious or server is None or self._death is not None or not self._asks(item):
            return
        begun = time.monotonic()
        how, cause = self._trouble(server)
        if how:
            case = case_name(item.nodeid, item.location[0])
            self._died(report, Death(case=case, how=how, cause=cause), server)
        if self._planner is not None:
            self._planner.not_counted(time.monotonic() - begun)

    def _asks(self, item: pytest.Item) -> bool:
        """Whether a case uses the server."""
        names: list[str] = getattr(item, "fixturenames", [])
        return "server" in names or "http" in names or "client" in names

    def _trouble(self, server: ServerFacts) -> tuple[str, str]:
        """What is wrong with a valid request, and the id of the cause; empty if one of several succeeds."""
        begun, attempt, how, timed_out = time.monotonic(), 0, "", False
        while attempt < _TRIES or (timed_out and time.monotonic() - begun < _HANGS_S * self._slowness):
            if attempt:
                time.sleep(_BETWEEN_S)
            how, timed_out = _asked(self._config, server, self._slowness)
            if not how:
                return "", ""
            attempt += 1
        return how, HANGS if timed_out else DIED

    @property
    def _planner(self) -> Any:
        return self._config.pluginmanager.get_plugin("vllm-ci-planner")

    @property
    def _slowness(self) -> float:
        return float(self._planner.slowness) if self._planner is not None else 1.0

    def _died(self, report: pytest.TestReport, death: Death, server: ServerFacts) -> None:
        last = connecting.traffic(self._config).last
        self._deaths += 1
        said, case = death.said, death.case
        properties: dict[str, Any] = {
            "cause": {"id": death.cause, "title": said, "severity": "critical"},
            "findings": [{"id": f"{death.cause}:{case.rpartition('::')[2]}", "severity": "critical", "message": said}],
        }
        before = getattr(report, "vllm_message", "")
        vars(report).update(vllm_status="failed", vllm_message=f"{said}; seen first: {before}" if before else said)
        report.user_properties += list(properties.items())
        report.sections.append(("the end of the server", "\n".join(filter(None, (str(last or ""), self._log())))))
        if self._deaths <= _MOST_DEATHS and self._returns(server):
            return
        self._death = death
        self._config.stash[FACTS]["server_died"] = {"case": case, "how": death.how}

    def _returns(self, server: ServerFacts) -> bool:
        """Whether the server works again within a few seconds."""
        until = time.monotonic() + float(self._config.option.vllm_return)
        while time.monotonic() < until:
            time.sleep(_BETWEEN_S)
            if not _asked(self._config, server, self._slowness)[0]:
                return True
        return False

    def _log(self) -> str:
        name = self._config.option.vllm_server_log
        if not name:
            return ""
        try:
            lines = Path(name).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            return f"the server's log cannot be read: {error}"
        return "\n".join(["the end of the server's log:", *lines[-_LOG_LINES:]])


def _asked(config: pytest.Config, server: ServerFacts, slowness: float) -> tuple[str, bool]:
    """What is wrong with one valid request on a new connection, empty if it succeeds; and whether it was only not in time."""
    bound_s = _ANSWER_S * slowness
    try:
        with connecting.http(config, server.url, bound_s, note=False) as http:
            answer = ApiClient(http=http, model=server.model, server=server).smallest()
    except httpx.TimeoutException:
        return f"a valid request is not answered within {bound_s:.0f} s", True
    except httpx.ConnectError:
        return "it does not accept connections any more", False
    except httpx.HTTPError as error:
        return f"a valid request ends without an answer ({type(error).__name__})", False
    except Inconclusive:  # a rate limit: the server is there
        return "", False
    return ("" if answer.status_code < 500 else f"a valid request is answered {shown(answer)}"), False
