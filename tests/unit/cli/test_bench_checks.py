"""``vllm-ci bench`` with input that makes no sense: refused before anything is sent, or shown as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner

from doubles.running import running
from doubles.server import Double
from doubles.wire import Response
from vllm_ci.cli import bench, root

ROOT = Path(__file__).parents[3]
NOWHERE = ["bench", "--url", "http://127.0.0.1:9"]


@pytest.fixture
def double() -> Iterator[tuple[str, Double]]:
    with running(Double) as found:
        yield found


def refused(*arguments: str) -> str:
    ended = CliRunner().invoke(root, [*NOWHERE, *arguments])
    return f"{ended.exception} {ended.output}"


@pytest.mark.parametrize("option", ["--rate", "--ttft", "--burstiness", "--good", "--overload-factor"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_that_are_not_finite_are_refused(option: str, value: str) -> None:
    said = refused(option, value)
    assert "is not a finite number" in said or "is not in the range" in said


def test_a_rate_that_no_client_can_send_is_refused() -> None:
    assert "0<x<=10000" in refused("--rate", "1e9")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--good", "0.8"], "--good has no effect here"),
        (["--overload-factor", "3"], "--overload-factor has no effect here"),
        (["--rounds", "4"], "--rounds has no effect here"),
        (["--arrivals", "constant"], "--arrivals has no effect here"),
        (["--rate", "1", "--burstiness", "3"], "--burstiness has no effect here"),
        (["--sweep", "--ttft", "9", "--duration", "90"], "--duration has no effect here"),
        (["--sweep", "--ttft", "9", "--concurrency", "2"], "--concurrency has no effect here"),
        (["--overload", "--warm-up", "1"], "--warm-up has no effect here"),
        (["--sweep", "--ttft", "9", "--rate", "0.001"], "cannot start at 0.001 requests/s"),
        (["--sweep", "--ttft", "9", "--rate", "6000"], "cannot start at 6000 requests/s"),
        (["--url", "http://127.0.0.1:9/v1/"], "both URLs are the same"),
    ],
)
def test_options_without_effect_are_refused_before_anything_is_sent(arguments: list[str], said: str) -> None:
    assert said in refused(*arguments)


@pytest.mark.slow
def test_options_of_the_environment_may_be_without_effect(double: tuple[str, Double], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CI_ROUNDS", "4")
    assert CliRunner().invoke(root, ["bench", "--url", double[0], "--duration", "0.5"]).exit_code in (0, 4)


def test_options_that_stand_before_a_command_are_refused(tmp_path: Path) -> None:
    ended = CliRunner().invoke(root, ["bench", "--json", "history", str(tmp_path)])
    assert "--json has no effect here" in str(ended.exception)


def test_options_that_a_comparison_of_the_image_does_not_use_are_refused() -> None:
    ended = CliRunner().invoke(root, ["bench", "--aa", "--rate", "3"])
    assert "--rate has no effect here" in str(ended.exception)


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_load(double: tuple[str, Double], tmp_path: Path) -> None:
    url, server = double
    (tmp_path / "file").touch()
    ended = CliRunner().invoke(root, ["bench", "--url", url, "--report-dir", str(tmp_path / "file" / "results")])
    assert "cannot write to" in str(ended.exception)
    assert server.counts["requests"] == 0


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_end_does_not_take_the_result(
    double: tuple[str, Double], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench, "dumps", full)
    arguments = ["--url", double[0], "--duration", "0.5", "--json", "--report-dir", str(tmp_path)]
    ended = CliRunner().invoke(root, ["bench", *arguments])
    assert json.loads(ended.stdout)["figures"]["requests"] > 0
    assert "No space left on device" in str(ended.exception)


@pytest.mark.slow
def test_a_reader_who_goes_away_does_not_take_the_stored_result(double: tuple[str, Double], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vllm_ci", "bench", "--url", double[0], "--duration", "5", "--report-dir", str(tmp_path)]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "pipeline")}
        done = subprocess.run(command, stdout=nobody, stderr=subprocess.PIPE, env=environment, check=False, timeout=60)
    (stored,) = tmp_path.glob("bench-*.json")
    assert json.loads(stored.read_text())["figures"]["requests"] > 0
    assert done.returncode == 141, "as a shell says it, not as a verdict"
    assert b"Exception ignored" not in done.stderr


@pytest.mark.slow
def test_the_name_of_a_model_is_shown_as_text_and_not_obeyed() -> None:
    class Named(Double):
        model = "[/red]:smile:\x1b[31m"

    with running(Named) as (url, _):
        ended = CliRunner().invoke(root, ["bench", "--url", url, "--duration", "0.5"])
    assert r"[/red]:smile:\x1b[31m at" in ended.stderr, ended.exception
    assert "\x1b" not in ended.output


@pytest.mark.slow
def test_gauges_without_a_value_leave_the_document_valid_json() -> None:
    class Unknown(Double):
        def got(self, place: str) -> Response:
            found = super().got(place)
            if place != "/metrics":
                return found
            lines = [
                line.rpartition(b" ")[0] + b" NaN" if b"num_requests" in line or b"preemptions" in line else line
                for line in found.body.splitlines()
            ]
            return replace(found, body=b"\n".join(lines) + b"\n")

    def no_constant(name: str) -> NoReturn:
        raise AssertionError(f"{name} is not JSON")

    with running(Unknown) as (url, _):
        ended = CliRunner().invoke(root, ["bench", "--url", url, "--duration", "0.5", "--json"])
    document = json.loads(ended.stdout, parse_constant=no_constant)
    assert "waiting" not in document["resources"]["peak"]
