"""A real Prometheus and a real Alertmanager: faults of a server that is scraped, and the command line around a release."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner

from registries.evidence import NOW, commit_of
from registries.releases import World, world_in
from unit.monitoring.programs import alertmanager, program, prometheus, receiver, serving, until
from unit.monitoring.serving import Traffic, openmetrics
from vllm_ci.cli import root
from vllm_ci.domain.errors import VllmCiError
from vllm_ci.monitoring import rules
from vllm_ci.monitoring.rules import Watched
from vllm_ci.release import history
from vllm_ci.release.publish import publish
from vllm_ci.system import yaml_text

pytestmark = pytest.mark.needs_tool
SECOND = NOW + timedelta(hours=5)
GOOD = Traffic()
# Channel -> traffic before and after the release, whether a gateway is scraped, and what has to be found.
SCENARIOS: dict[str, tuple[Traffic, Traffic, bool, str, set[str]]] = {
    "healthy": (GOOD, GOOD, False, "passed", set()),
    "healthy-gateway": (GOOD, GOOD, True, "passed", set()),
    "busier": (GOOD, Traffic(rate=9.0), False, "passed", set()),
    "better": (Traffic(errors=0.05, ttft_s=0.6), GOOD, False, "passed", set()),
    "bad-before-too": (Traffic(errors=0.05), Traffic(errors=0.05), False, "passed", set()),
    "errors": (GOOD, Traffic(errors=0.2), False, "failed", {"errors"}),
    "errors-gateway": (GOOD, Traffic(errors=0.05), True, "failed", {"errors"}),
    "slow": (GOOD, Traffic(ttft_s=0.6, tpot_s=0.09), False, "failed", {"ttft", "tpot"}),
    "refuses": (GOOD, Traffic(refused=0.2), False, "failed", {"refusals"}),
    "short-answers": (GOOD, Traffic(tokens=20.0), False, "failed", {"answer_length"}),
    "queue": (GOOD, Traffic(waiting=30.0), False, "failed", {"queue"}),
    "leak": (GOOD, Traffic(growth=0.3), False, "failed", {"memory"}),
    "restarts": (GOOD, Traffic(restart_s=300.0), False, "failed", {"restarts"}),
    "half-down": (GOOD, Traffic(down=0.5), False, "failed", {"up"}),
    "dead": (GOOD, Traffic(gone=True), False, "inconclusive", set()),
    "idle": (GOOD, Traffic(idle=True), False, "inconclusive", set()),
    "new": (Traffic(gone=True), GOOD, False, "inconclusive", set()),
}


@pytest.fixture(name="url", scope="module")
def _url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that has seen all scenarios."""
    folder = tmp_path_factory.mktemp("prometheus")
    tool = program("promtool")
    samples = [
        openmetrics(name, before, after, released=SECOND.timestamp(), gateway=gateway)
        for name, (before, after, gateway, _, _) in SCENARIOS.items()
    ]
    (folder / "samples.txt").write_text("".join(samples) + "# EOF\n")
    subprocess.run(
        [tool, "tsdb", "create-blocks-from", "openmetrics", "samples.txt", "data"], cwd=folder, check=True, stdout=-3
    )
    with prometheus(folder, {}) as url:
        yield url


@pytest.fixture(name="unmoved", scope="module")
def _unmoved(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A project whose channel `staging` has two releases, for tests that move nothing."""
    return released(tmp_path_factory.mktemp("project"))


@pytest.fixture(name="world")
def _world(tmp_path: Path) -> World:
    """The same, for one test."""
    return released(tmp_path)


def released(folder: Path) -> World:
    world = world_in(folder / ".vllm-ci")
    publish(world.setup, world.candidate(1), "staging", now=NOW).require()
    publish(world.setup, world.candidate(2), "staging", now=SECOND).require()
    return world


@pytest.fixture(autouse=True)
def _here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are called in the project."""
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    for name in {"world", "unmoved"} & set(request.fixturenames):
        project: World = request.getfixturevalue(name)
        monkeypatch.chdir(project.folder.parent)


def configured(folder: Path, channel: str, **more: Any) -> None:
    staging = {"labels": {"channel": channel}, **more}
    (folder / "vllm-ci.yaml").write_text(yaml.safe_dump({"name": "project", "monitoring": {"channels": {"staging": staging}}}))


def called(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(root, arguments, standalone_mode=False)
    if isinstance(result.exception, VllmCiError):
        raise result.exception
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_a_release_changed_is_found_in_a_real_prometheus(name: str, url: str, unmoved: World) -> None:
    configured(unmoved.folder.parent, name)
    code, printed = called("watch", "staging", "--prometheus", url, "--json")
    found = json.loads(printed)
    _, _, _, verdict, worse = SCENARIOS[name]
    shown = {each["name"]: (each["state"], each["message"]) for each in found["signals"]}
    assert found["verdict"] == verdict, shown
    assert worse <= {each for each, (state, _) in shown.items() if state == "worse"}, shown
    assert code == {"passed": 0, "failed": 1, "inconclusive": 4}[verdict]
    assert found["release"]["commit"] == commit_of(2).sha


def test_an_anomaly_is_sent_rolled_back_and_told_on_the_command_line(url: str, world: World) -> None:
    configured(world.folder.parent, "errors", rollback=True)
    with receiver(503) as hook:
        code, printed = called("watch", "staging", "--prometheus", url, "--webhook", hook.url, "--rollback")
    assert code == 1
    assert "became worse: errors" in printed
    assert f"rolled back to {commit_of(1).sha[:12]}" in printed
    assert hook.bodies[1]["alerts"][0]["labels"]["signal"] == "errors"
    head = history.current(world.setup.ledger.read().records, "staging")
    assert head
    assert head.release.commit == commit_of(1).sha


@pytest.mark.slow
def test_a_rollback_that_the_configuration_does_not_allow_is_refused_before_anything_is_asked(unmoved: World) -> None:
    configured(unmoved.folder.parent, "errors")
    with pytest.raises(VllmCiError, match="may not be rolled back") as caught:
        called("watch", "staging", "--prometheus", "http://127.0.0.1:1", "--rollback")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("at", ["yesterday", "2999-01-01T00:00:00Z"])
def test_times_that_make_no_sense_are_refused(at: str, unmoved: World) -> None:
    configured(unmoved.folder.parent, "errors")
    with pytest.raises(VllmCiError) as caught:
        called("watch", "staging", "--prometheus", "http://127.0.0.1:1", "--at", at)
    assert caught.value.exit_code == 2


class Exporter:
    """What a vLLM exports, counted up once a scrape; a fault can be switched on."""

    def __init__(self) -> None:
        self.failing = threading.Event()
        self.good = self.bad = 0

    def text(self) -> str:
        self.good += 20
        self.bad += 5 if self.failing.is_set() else 0
        return (
            f'http_requests_total{{status="2xx"}} {self.good}\nhttp_requests_total{{status="5xx"}} {self.bad}\n'
            f"vllm:num_requests_waiting 0\nvllm:request_success_total {self.good}\n"
        )


def test_an_injected_fault_fires_the_alert_and_reaches_the_webhook(tmp_path: Path) -> None:
    exporter = Exporter()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = exporter.text().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "rules.yml").write_text(
        yaml_text.dump(rules.document([Watched(channel="production", labels={"channel": "production"})]))
    )
    with serving(Handler) as target, receiver() as hook, alertmanager(tmp_path, hook.url) as manager:
        config = {
            "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "500ms"},
            "rule_files": ["rules.yml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [manager.removeprefix("http://")]}]}]},
            "scrape_configs": [
                {
                    "job_name": "vllm",
                    "static_configs": [{"targets": [target.removeprefix("http://")], "labels": {"channel": "production"}}],
                }
            ],
        }
        with prometheus(tmp_path, config) as url:
            until(lambda: queried(url, 'vllm_ci:errors{channel="production"}') == 0, "errors being recorded as none")
            time.sleep(3)
            assert queried(url, 'count(ALERTS{alertstate="firing"})') is None
            assert not hook.bodies
            exporter.failing.set()
            body = until(lambda: next(iter(hook.bodies), None), "the webhook being told", log=tmp_path / "prometheus.log")
    alert = body["alerts"][0]
    assert alert["labels"]["alertname"] == "VllmAvailabilityBudgetBurns"
    assert alert["labels"]["channel"] == "production"
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert "were bad in" in alert["annotations"]["summary"]


def queried(url: str, expr: str) -> float | None:
    result = httpx.get(f"{url}/api/v1/query", params={"query": expr}).json()["data"]["result"]
    return float(result[0]["value"][1]) if result else None


def test_the_clock_of_this_machine_is_later_than_the_releases_of_these_tests() -> None:
    assert datetime.now(UTC) > SECOND + timedelta(hours=2)
