"""The search for the capacity, on a model and on a server that answers one request at a time, and its page."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles.running import running
from doubles.server import Double
from doubles.wire import Connection, Response
from vllm_ci.cli.bench_output import step
from vllm_ci.domain.report import Verdict
from vllm_ci.performance import page
from vllm_ci.performance.curve import Line, chart
from vllm_ci.performance.figures import Objective, figures
from vllm_ci.performance.load import Load
from vllm_ci.performance.measuring import Measurement, Setting
from vllm_ci.performance.resources import Resources
from vllm_ci.performance.sample import Sample, Samples
from vllm_ci.performance.server import Served, served
from vllm_ci.performance.sweep import RESOLUTION, Capacity, edges, growing, rates, sweep
from vllm_ci.performance.workload import Lengths, Workload


def searched(capacity: float, start: float, *, noise: float = 0.0, seed: int = 1) -> list[tuple[float, bool]]:
    """The tries of a search on a server with this capacity."""
    rng = random.Random(seed)
    tries: list[tuple[float, bool]] = []
    search = rates(start)
    rate = next(search)
    while True:
        met = rate <= capacity * math.exp(rng.gauss(0, noise))
        tries.append((rate, met))
        try:
            rate = search.send(met)
        except StopIteration:
            return tries


@given(st.floats(0.05, 2000), st.floats(0.1, 100))
def test_without_noise_the_interval_holds_the_capacity_and_is_as_narrow_as_promised(capacity: float, start: float) -> None:
    tries = searched(capacity, start)
    low, high = edges(tries)
    assert low is not None
    assert high is not None
    assert low <= capacity < high
    assert high / low <= RESOLUTION * 1.001
    assert len(tries) < 30
    assert [rate for rate, _ in tries].count(low) >= 2, "both ends are tried again"


@given(st.integers(0, 500))
def test_tries_that_contradict_one_another_widen_the_interval(seed: int) -> None:
    tries = searched(10, 1, noise=0.3, seed=seed)
    low, high = edges(tries)
    assert all(met for rate, met in tries if low is not None and rate <= low)
    assert not any(met for rate, met in tries if high is not None and rate >= high)
    assert low is not None, "an end that is contradicted is moved outwards"
    assert high is not None
    assert low < 10 * 1.6
    assert high > 10 / 1.6
    assert low < high
    assert len(tries) < 40


def test_a_search_ends_where_no_rate_meets_the_objective_or_every_one_does() -> None:
    assert edges(searched(0, 1))[0] is None
    assert edges(searched(1e9, 1))[1] is None


def test_a_queue_that_grows_to_the_end_is_seen_even_if_latencies_are_good() -> None:
    def run(seconds: float, growth: float) -> list[Sample]:
        due = [number * 0.1 for number in range(100)]
        return [
            Sample(
                due_s=at,
                begun_s=at,
                first_s=at,
                end_s=at + seconds + growth * at,
                output_tokens=2,
                prompt_tokens=1,
                chunks=2,
                asked_tokens=2,
            )
            for at in due
        ]

    assert growing(run(0.2, 1.0), 10)
    assert not growing(run(0.2, 0.0), 10)


class OneAtATime(Double):
    """30 ms for an answer, one after another: its capacity is 33 requests/s, and near it requests wait."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = asyncio.Lock()

    async def posted(self, path: str, body: dict[str, object], connection: Connection) -> Response | None:
        if not path.endswith("completions"):
            return await super().posted(path, body, connection)
        async with self.turn:
            await asyncio.sleep(0.03)
            return await super().posted(path, body, connection)


SMALL = Workload(
    name="small",
    version=1,
    source="a test",
    prompt=Lengths(median=8, mean=9, largest=16),
    output=Lengths(median=2, mean=2, largest=2),
)


@pytest.mark.slow
def test_the_capacity_of_a_real_server_is_found_and_drawn(tmp_path: Path) -> None:
    with running(OneAtATime) as (url, _):
        setting = Setting(workload=SMALL, objective=Objective(ttft_ms=250))
        found = sweep(served(url), setting, start=12, share=0.8, resolution=1.5, least_s=4)
    if "the client sent requests" in " ".join(found.reasons):
        pytest.skip(f"this machine was too busy to measure: {found.reasons[0]}")
    assert found.low is not None, found.reasons
    assert 8 < found.low < 36
    assert found.high is not None
    assert found.high < 60
    assert found.verdict is Verdict.PASSED
    written = page.write(tmp_path / "new", found, facts={"model": "<double>"})
    text = written.read_text()
    assert "&lt;double&gt;" in text
    assert "<script" not in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "limit 250" in text
    document = json.loads(json.dumps(found.document()))
    assert document["interval_per_s"] == [found.low, found.high]
    assert any(not each["met"] and each["why"] for each in document["steps"])


@pytest.mark.slow
@pytest.mark.parametrize("late_ms", [10.0, -1e9])
def test_a_server_that_is_gone_ends_the_sweep_as_errored_also_for_a_late_client(
    late_ms: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_ci.performance.figures.LATE_MS", late_ms)
    with running(OneAtATime) as (url, _):
        server = served(url)
    found = sweep(server, Setting(workload=SMALL, objective=Objective(ttft_ms=250)), share=0.8)
    assert found.verdict is Verdict.ERRORED
    assert len(found.steps) == 1


def with_late_client(late_from: float, start: float, monkeypatch: pytest.MonkeyPatch) -> Capacity:
    """A sweep of a model of a server: 33 requests/s are answered in time, and the client is 20 ms late from a rate on."""

    def model(_: Served, setting: Setting, *, watch: Callable[[Load], None]) -> Measurement:
        samples, lag_s = Samples(), 0.02 if setting.rate >= late_from else 0.0
        for number in range(100):
            due = number / setting.rate
            first = due + lag_s + (0.1 if setting.rate <= 33 else 1.0)
            samples.add(
                Sample(
                    due_s=due,
                    begun_s=due + lag_s,
                    first_s=first,
                    end_s=first,
                    output_tokens=1,
                    prompt_tokens=1,
                    chunks=1,
                    asked_tokens=1,
                )
            )
        watch(cast("Load", SimpleNamespace(samples=samples, stop=False)))
        return Measurement(
            setting=setting,
            figures=figures(samples),
            verdict=Verdict.PASSED,
            reasons=(),
            counters={"prefix_cache_queries": 100.0, "prefix_cache_hits": 30.0 if setting.rate == start else 0.0},
            scale=1.0,
            exact_prompts=True,
            resources=Resources(pid=None, samples=0, first={}, last={}, peak={}, cpu_s=None),
        )

    monkeypatch.setattr("vllm_ci.performance.sweep.measure", model)
    return sweep(cast("Served", None), Setting(workload=SMALL, objective=Objective(ttft_ms=250)), start=start)


def test_a_client_that_is_late_far_above_the_capacity_does_not_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_late_client(60, 64, monkeypatch)
    assert found.steps[0].measurement.figures.client_too_slow
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 33 < found.high <= found.low * RESOLUTION * 1.001
    assert (found.verdict, found.reasons) == (Verdict.PASSED, ())


def test_a_step_whose_prompts_were_sent_before_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *_ = with_late_client(math.inf, 16, monkeypatch).steps
    assert step(first) == "      16 requests/s: 100% good, met (30% of the prompt tokens were cached from earlier requests)"
    assert step(second) == "      32 requests/s: 100% good, met"


def test_an_upper_end_at_which_the_client_was_late_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_late_client(33.1, 16, monkeypatch)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 33 < found.high
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "the lowest rate that missed the objective, the client sent requests 20 ms late" in found.reasons[0]


def test_a_client_that_is_late_where_the_objective_is_met_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_late_client(15, 8, monkeypatch)
    assert [each.met for each in found.steps] == [True, True]
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "the client sent requests 20 ms late" in found.reasons[0]


def test_a_chart_is_valid_xml_and_draws_every_point() -> None:
    lines = [Line(name="<p50>", points=[(1, 10), (2, 20), (4, 400)], limit=100), Line(name="p90", points=[(1, 0), (2, 50)])]
    tree = ET.fromstring(chart("a & b", lines, x_label="x", y_label="y", band=(2, 4)))
    assert len(tree.findall(".//{*}circle")) == 4, "a value of 0 has no place on a logarithmic axis"
    assert "limit 100" in [each.text for each in tree.iter()]


@given(st.lists(st.tuples(st.floats(1e-6, 1e9), st.floats(1e-6, 1e9)), max_size=6))
def test_a_chart_of_any_values_stays_inside_its_picture(points: list[tuple[float, float]]) -> None:
    tree = ET.fromstring(chart("t", [Line(name="n", points=points)], x_label="x", y_label="y"))
    for dot in tree.findall(".//{*}circle"):
        assert 0 <= float(dot.attrib["cx"]) <= 720
        assert 0 <= float(dot.attrib["cy"]) <= 400


@pytest.mark.slow
def test_a_sweep_needs_an_objective() -> None:
    with running(OneAtATime) as (url, _), pytest.raises(ValueError, match="objective"):
        sweep(served(url), Setting(workload=SMALL))
