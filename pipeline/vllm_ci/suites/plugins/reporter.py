"""Plugin that writes pytest's results as ``cases.json``. Needs only the standard library and pytest.

It runs in the tool's environment, in a user's environment, and inside images with pytest mounted::

    python -m pytest -p vllm_ci.suites.plugins.reporter --vllm-report DIR ...

``cases.json`` (format 1) is one object: ``format``, ``collected`` (cases selected to run), ``exit_status`` (pytest's),
``seconds``, ``session`` (facts recorded by fixtures: server, commit, image digest) and ``cases``, each with the fields of
:class:`vllm_ci.domain.report.Case`. ``cases.jsonl`` next to it is written while the cases run, so that a run that is
killed still shows which cases ended, which one was running, and (without pytest-xdist) which ones had not begun.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from vllm_ci.suites.plugins.stash import FACTS, MASKS
from vllm_ci.suites.verdicts import Errored, Fault, Inconclusive

FORMAT = 1
_MARKER = "/vllm_ci/suites/"
_SEVERITY = ("passed", "skipped", "inconclusive", "failed", "errored")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the report."""
    group = parser.getgroup("vllm-ci", "vllm-ci")
    group.addoption("--vllm-report", metavar="DIR", default=None, help="write cases.json into this directory")
    group.addoption("--vllm-commit", metavar="SHA", default="", help="commit the image was built from; goes into every report")
    group.addoption("--vllm-image-digest", metavar="DIGEST", default="", help="digest of the image; goes into every report")


def pytest_configure(config: pytest.Config) -> None:
    """Register the recorder, except in a worker of pytest-xdist, which reports to its controller."""
    config.stash[FACTS] = {"commit": config.option.vllm_commit, "image_digest": config.option.vllm_image_digest}
    config.stash[MASKS] = []
    if config.option.vllm_report and not hasattr(config, "workerinput"):
        config.pluginmanager.register(ReportWriter(config, Path(config.option.vllm_report)), "vllm-ci-recorder")


@pytest.fixture(scope="session")
def note(request: pytest.FixtureRequest) -> Callable[[str, Any], None]:
    """Record a fact about the session (JSON value) in the report: ``note("model", "tiny")``."""
    return request.config.stash[FACTS].__setitem__


@pytest.fixture
def metric(request: pytest.FixtureRequest) -> Callable[[str, Any], None]:
    """Record a figure of this case (JSON value, unit in the name) in all reports: ``metric("ttft_ms", 12.5)``."""

    def keep(name: str, value: Any) -> None:
        request.node.user_properties.append((name, value))

    return keep


@pytest.fixture(scope="session", autouse=True)
def _vllm_identity(request: pytest.FixtureRequest, record_testsuite_property: Callable[[str, object], None]) -> None:
    """Add commit and image digest to the properties of pytest's JUnit file."""
    for name in ("commit", "image_digest"):
        if value := request.config.stash[FACTS][name]:
            record_testsuite_property(name, value)


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Mark inconclusive and errored cases, and mask secrets in the report."""
    outcome = yield
    report = outcome.get_result()
    if call.excinfo is not None and report.failed:
        if call.excinfo.errisinstance(Inconclusive):
            report.vllm_status = "inconclusive"
        elif call.excinfo.errisinstance(Errored) or (call.when != "call" and not _is_a_fact(call.excinfo)):
            report.vllm_status = "errored"
        report.vllm_message = _one_line(call.excinfo)
        if isinstance(cause := getattr(call.excinfo.value, "cause", None), Mapping):
            report.user_properties.append(("cause", dict(cause)))
    _mask(report, item.config.stash[MASKS])


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Letter and word on the terminal for an inconclusive case."""
    if getattr(report, "vllm_status", "") == "inconclusive":
        return "inconclusive", "I", "INCONCLUSIVE"
    return None


def _is_a_fact(excinfo: pytest.ExceptionInfo[BaseException]) -> bool:
    """Whether a fixture ended with a fact about the server: by ``pytest.fail``, or by an assertion that has a cause."""
    if excinfo.errisinstance((pytest.fail.Exception, Fault)):
        return True
    return excinfo.errisinstance(AssertionError) and hasattr(excinfo.value, "cause")


class ReportWriter:
    """Collects pytest's results and writes them to the report directory."""

    def __init__(self, config: pytest.Config, directory: Path) -> None:
        self._config = config
        self._directory = directory
        self._cases: dict[str, dict[str, Any]] = {}
        self._collected = 0
        facts: dict[str, Any] = config.stash[FACTS]
        self._noted = dict(facts)
        self._started = time.monotonic()
        directory.mkdir(parents=True, exist_ok=True)
        for stale in ("cases.json", "cases.jsonl"):
            (directory / stale).unlink(missing_ok=True)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Record the selected cases."""
        self._collected = len(session.items)
        self.append({"collected": [case_name(item.nodeid, item.location[0]) for item in session.items]})

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Record the number of selected cases with pytest-xdist, whose controller does not collect tests."""
        self._collected = len(ids)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a file that cannot be imported as an errored case, and a skipped file as a skipped case."""
        if report.passed:
            return
        name = case_name(report.nodeid) or "collection"
        status = "skipped" if report.skipped else "errored"
        self._cases[name] = _case(name, status, message=_reason(report), details="" if report.skipped else report.longreprtext)
        self.append({"case": self._cases[name]})

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        """Record the running case, for a run that is killed."""
        self.append({"running": case_name(nodeid, location[0])})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Combine setup, call and teardown into one case with the worst status of the three."""
        if hasattr(report, "context"):  # a subtest: pytest fails the test that contains it
            return
        name = case_name(report.nodeid, report.location[0])
        case = self._cases.setdefault(name, _case(name, "passed"))
        case["seconds"] = round(case["seconds"] + report.duration, 6)
        case["properties"].update((key, _plain(value)) for key, value in report.user_properties)
        status = _status(report)
        if _SEVERITY.index(status) > _SEVERITY.index(case["status"]):
            details = report.longreprtext if status not in ("skipped", "passed") else ""
            case.update(status=status, message=_reason(report), details=details)
        if report.when == "teardown":
            self.append({"case": case})
            self._note()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write ``cases.json`` atomically."""
        if not self._collected and not self._cases:
            self._cases["collection"] = _case("collection", "errored", message="no tests were collected")
        document = {
            "format": FORMAT,
            "collected": self._collected,
            "exit_status": int(exitstatus),
            "seconds": round(time.monotonic() - self._started, 3),
            "session": self._config.stash[FACTS],
            "cases": list(self._cases.values()),
        }
        text = self._json(document, indent=1)
        part = self._directory / "cases.json.part"
        part.write_text(text, encoding="utf-8", errors="replace")
        part.replace(self._directory / "cases.json")
        if not self._collected:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED if exitstatus == 0 else exitstatus

    def _note(self) -> None:
        """Write the facts of the session to ``cases.jsonl`` too, because a run that is killed writes no ``cases.json``."""
        facts: dict[str, Any] = self._config.stash[FACTS]
        if facts != self._noted:
            self._noted = dict(facts)
            self.append({"session": facts})

    def append(self, line: dict[str, Any]) -> None:
        """Append a line to ``cases.jsonl``, which can be read during the run."""
        with (self._directory / "cases.jsonl").open("a", encoding="utf-8", errors="replace") as file:
            file.write(self._json(line) + "\n")

    def _json(self, value: object, indent: int | None = None) -> str:
        secrets: list[str] = self._config.stash[MASKS]
        escaped = [json.dumps(secret, ensure_ascii=False)[1:-1] for secret in secrets]
        return _masked(json.dumps(value, indent=indent, ensure_ascii=False, default=str), escaped)


def case_name(nodeid: str, location: str = "") -> str:
    """A node id without machine-specific paths: relative to the suites for our cases, to the checkout for a user's.

    Args:
        nodeid: pytest's node id; relative to the root directory unless the file is outside of it.
        location: Path of the file in pytest's ``location``, used if the node id is not relative.
    """
    path, separator, rest = nodeid.partition("::")
    located = "/" + location.replace("\\", "/")
    path = path.replace("\\", "/")
    if _MARKER in located or _MARKER in f"/{path}":
        path = (located if _MARKER in located else f"/{path}").rpartition(_MARKER)[2]
    elif path.startswith(("/", "..")):
        path = path.rpartition("/")[2]
    return f"{path}{separator}{rest}"


def _case(name: str, status: str, *, message: str = "", details: str = "") -> dict[str, Any]:
    return {"name": name, "status": status, "seconds": 0.0, "message": message, "details": details, "properties": {}}


def _status(report: pytest.TestReport) -> str:
    marked: str = getattr(report, "vllm_status", "")
    if marked:
        return marked
    if report.skipped and not hasattr(report, "wasxfail"):
        return "skipped"
    return "failed" if report.failed else "passed"


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    message: str = getattr(report, "vllm_message", "")
    if message:
        return message
    lines = [line.removeprefix("E").strip() for line in report.longreprtext.splitlines() if line.startswith("E ")]
    return (lines or report.longreprtext.strip().splitlines()[-1:] or [""])[0][:500]


def _one_line(excinfo: pytest.ExceptionInfo[BaseException]) -> str:
    """The first line of the exception; with its type, except for assertions and our own exceptions."""
    text = str(excinfo.value).strip().splitlines()
    first = text[0] if text else ""
    plain = excinfo.errisinstance((AssertionError, Inconclusive, Errored, pytest.fail.Exception))
    return (first if plain and first else f"{excinfo.typename}: {first}".rstrip(": "))[:500]


def _plain(value: object) -> object:
    """Convert to JSON values; unknown types become text."""
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, dict):
        return {str(key): _plain(element) for key, element in value.items()}
    if isinstance(value, Iterable):
        return [_plain(element) for element in value]
    return str(value)


def _mask(report: pytest.TestReport, secrets: list[str]) -> None:
    if not any(secret in f"{report.longreprtext}{report.sections}" for secret in secrets):
        return
    if report.failed:
        report.longrepr = _masked(report.longreprtext, secrets)
    report.sections = [(name, _masked(text, secrets)) for name, text in report.sections]
    if message := getattr(report, "vllm_message", ""):
        vars(report)["vllm_message"] = _masked(message, secrets)


def _masked(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
