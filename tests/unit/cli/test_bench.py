"""``vllm-ci bench`` through the command line, on a double of a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from doubles.running import running
from doubles.server import Double
from vllm_ci.cli import root
from vllm_ci.cli.bench_options import duration


@pytest.fixture
def url() -> Iterator[str]:
    with running(Double) as (found, _):
        yield found


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_table_shows_how_many_requests_a_missing_percentile_needs(url: str) -> None:
    ended = CliRunner().invoke(root, ["bench", "--url", url, "--duration", "1", "--warm-up", "0", "--rate", "20"])
    assert "p99 from 662" in ended.stdout
    assert "send lag" in ended.stdout


@pytest.mark.slow
def test_prompts_that_the_server_has_seen_before_are_said(url: str) -> None:
    arguments = ["bench", "--url", url, "--duration", "1", "--warm-up", "0", "--rate", "20"]
    said = "of the prompt tokens were cached from earlier requests: an earlier run had the same --seed"
    assert said not in " ".join(CliRunner().invoke(root, arguments).stderr.split())
    assert said in " ".join(CliRunner().invoke(root, arguments).stderr.split())
    assert said not in " ".join(CliRunner().invoke(root, [*arguments, "--seed", "2"]).stderr.split())
    sharing = [*arguments, "--workload", "shared-prefix"]
    assert said not in " ".join(CliRunner().invoke(root, sharing).stderr.split())
    assert said not in " ".join(CliRunner().invoke(root, sharing).stderr.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rate", "1", "--concurrency", "2"], "cannot be used together"),
        (["--duration", "3", "--warm-up", "3"], "leaves nothing"),
        (["--api-key-env", "NO_SUCH_VARIABLE_HERE"], "empty or not set"),
        (["--sweep"], "needs an objective"),
        (["--sweep", "--ttft", "1", "--aa"], "measures one server"),
        (["--url", "http://127.0.0.1:9"], "both URLs are the same"),
        (["--url", "http://127.0.0.1:8", "--url", "http://127.0.0.1:7"], "in pairs"),
        (["--url", "http://127.0.0.1:8", "--aa"], "one server with itself"),
        (["--workload", "chat", "--workload-file", "x"], "cannot be used together"),
        (["--workload-file", "no-such-file"], "cannot read no-such-file"),
        (["--duration", "0"], "must be more than 0"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_sent(arguments: list[str], said: str) -> None:
    ended = CliRunner().invoke(root, ["bench", "--url", "http://127.0.0.1:9", *arguments])
    assert said in str(ended.exception)


def test_a_server_that_cannot_be_reached_is_said_in_one_message() -> None:
    ended = CliRunner().invoke(root, ["bench", "--url", "http://127.0.0.1:9"])
    assert "cannot be reached" in str(ended.exception)


@pytest.mark.parametrize(("given", "seconds"), [("90", 90), ("1.5s", 1.5), ("10m", 600), ("1h", 3600), ("250ms", 0.25)])
def test_durations_have_units(given: str, seconds: float) -> None:
    assert duration(given) == seconds


@pytest.mark.parametrize("given", ["", "-1", "1d", "nan", "inf", "1e3", "8000h", "10 minutes"])
def test_what_is_no_duration_is_refused(given: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a duration"):
        duration(given)


def test_without_a_url_nothing_is_measured() -> None:
    assert "no server to measure" in str(CliRunner().invoke(root, ["bench"]).exception)


@pytest.mark.slow
def test_two_servers_are_compared_and_the_answer_says_what_it_is_worth(url: str, tmp_path: Path) -> None:
    with running(Double) as (other, _):
        arguments = ["--url", url, "--url", other, "--rounds", "3", "--duration", "3", "--report-dir", str(tmp_path)]
        ended = CliRunner().invoke(root, ["bench", *arguments])
    assert "one start each: this compares these two processes, not two versions" in ended.stdout, ended.exception
    assert "95 % interval" in ended.stdout
    (stored,) = tmp_path.glob("bench-*.json")
    assert json.loads(stored.read_text())["kind"] == "comparison"


@pytest.mark.slow
def test_a_file_with_arrival_times_is_sent_at_them(url: str, tmp_path: Path) -> None:
    lines = [{"prompt": "hello", "max_tokens": 2, "at_s": 100 + number / 10} for number in range(12)]
    (tmp_path / "trace.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = ["--url", url, "--workload-file", str(tmp_path / "trace.jsonl"), "--warm-up", "0", "--json"]
    document = json.loads(CliRunner().invoke(root, ["bench", *arguments]).stdout)
    assert document["figures"]["requests"] == 12
    assert 1.0 < document["figures"]["duration_s"] < 3
    assert document["setting"]["pattern"] == "trace"
