"""``vllm-ci bench`` through the command line, on a double of a server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from doubles.running import running
from doubles.server import Double
from vllm_ci.cli import root


@pytest.fixture
def url() -> Iterator[str]:
    with running(Double) as (found, _):
        yield found


def test_a_server_is_measured_and_its_counters_agree(url: str) -> None:
    ended = CliRunner().invoke(
        root, ["bench", "--url", f"{url}/v1", "--duration", "1.5", "--warm-up", "0.2", "--json", "--ttft", "10000"]
    )
    document = json.loads(ended.stdout)
    assert document["verdict"] in ("passed", "inconclusive"), document["reasons"]
    assert document["model"] == "double"
    assert document["setting"]["workload"] == "chat-v1"
    assert document["figures"]["requests"] > 0
    assert document["figures"]["goodput_per_s"] == pytest.approx(document["figures"]["requests_per_s"])
    assert document["server_counters"]["requests"] >= document["figures"]["requests"]


def test_the_table_shows_how_many_requests_a_missing_percentile_needs(url: str) -> None:
    ended = CliRunner().invoke(root, ["bench", "--url", url, "--duration", "1", "--warm-up", "0", "--rate", "20"])
    assert "p99 from 662" in ended.stdout
    assert "send lag" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rate", "1", "--concurrency", "2"], "cannot be used together"),
        (["--duration", "3", "--warm-up", "3"], "leaves nothing"),
        (["--api-key-env", "NO_SUCH_VARIABLE_HERE"], "empty or not set"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_sent(arguments: list[str], said: str) -> None:
    ended = CliRunner().invoke(root, ["bench", "--url", "http://127.0.0.1:9", *arguments])
    assert said in str(ended.exception)


def test_a_server_that_cannot_be_reached_is_said_in_one_message() -> None:
    ended = CliRunner().invoke(root, ["bench", "--url", "http://127.0.0.1:9"])
    assert "cannot be reached" in str(ended.exception)
