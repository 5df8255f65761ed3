"""Load against a double of a server: what is sent when, what is kept, and what the figures say."""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest

from doubles.defects.streams import AStreamBreaksOff, DoneAsJson, DoneTwice, MissingDone, NoFinishReason
from doubles.legal_servers import OneTemperatureChatOnly
from doubles.running import running
from doubles.server import Double
from doubles.wire import Connection, Response
from vllm_ci.loadgen.exchange import Exchange
from vllm_ci.loadgen.stream import Stream
from vllm_ci.performance.figures import Objective, figures, least_requests
from vllm_ci.performance.load import Load, Target
from vllm_ci.performance.sample import Histogram, Sample, Samples, sample_of
from vllm_ci.performance.server import served
from vllm_ci.performance.turns import conversations, interleaved
from vllm_ci.performance.workload import Ask


def asks(tokens: int = 4) -> Iterator[Ask]:
    for number in itertools.count():
        yield Ask(messages=({"role": "user", "content": f"hello {number}"},), prompt_tokens=2, output_tokens=tokens)


class Slow(Double):
    """Every answer takes at least 100 ms."""

    token_s = 0.025


@pytest.fixture
def target() -> Iterator[Target]:
    with running(Slow) as (url, _):
        yield Target(url=url, model="double", fields={"ignore_eos": True})


@pytest.mark.slow
def test_an_open_loop_sends_at_the_given_times_and_does_not_wait_for_answers(target: Target) -> None:
    load = Load(target=target, asks=asks())
    asyncio.run(load.open_loop([0.0, 0.05, 0.1, 0.15]))
    found = sorted(load.samples, key=lambda sample: sample.due_s)
    assert [round(sample.due_s, 3) for sample in found] == [0.0, 0.05, 0.1, 0.15]
    assert all(not sample.problem and sample.output_tokens == 4 for sample in found)
    assert found[1].begun_s < found[0].end_s, "the second request was sent while the first one ran"


def test_latency_counts_from_the_time_at_which_a_request_was_due() -> None:
    sample = Sample(
        due_s=1.0,
        begun_s=1.5,
        first_s=2.0,
        last_s=3.0,
        end_s=3.5,
        output_tokens=11,
        prompt_tokens=5,
        chunks=10,
        asked_tokens=11,
    )
    assert sample.ttft_ms == 1000
    assert sample.e2e_ms == 2500
    assert sample.lag_ms == 500
    assert sample.tpot_ms == 100


@pytest.mark.slow
def test_a_closed_loop_keeps_a_number_of_requests_running(target: Target) -> None:
    seen: list[int] = []
    load = Load(target=target, asks=asks(), watch=seen.append)
    asyncio.run(load.closed_loop(3, 0.5))
    assert max(seen) == 3
    assert len(load.samples) == load.sent >= 6


@pytest.mark.slow
def test_requests_are_sent_in_the_dialect_of_the_server() -> None:
    with running(OneTemperatureChatOnly) as (url, _):
        found = served(url)
        target = Target(url=url, model="double", spoken=found.dialect.spoken)
        load = Load(target=target, asks=asks())
        asyncio.run(load.open_loop([0.0, 0.01]))
    assert [sample.problem for sample in load.samples] == ["", ""]


@pytest.mark.parametrize(("server", "undone"), [(MissingDone, 2), (Double, 0)])
def test_whole_streams_without_done_count_and_are_told(server: type[Double], undone: int) -> None:
    with running(server) as (url, _):
        load = Load(target=Target(url=url, model="double"), asks=asks())
        asyncio.run(load.open_loop([0.0, 0.01]))
    found = figures(load.samples)
    assert (found.requests, found.failed, found.undone) == (2, {}, undone)


@pytest.mark.parametrize("server", [DoneTwice, DoneAsJson, NoFinishReason, AStreamBreaksOff])
def test_other_wrong_ends_of_a_stream_are_failures(server: type[Double]) -> None:
    with running(server) as (url, _):
        load = Load(target=Target(url=url, model="double"), asks=asks(tokens=32))
        asyncio.run(load.open_loop([0.0]))
    assert figures(load.samples).requests == 0


def test_a_server_that_refuses_is_counted_by_problem(target: Target) -> None:
    load = Load(target=Target(url=target.url, model="no-such-model"), asks=asks())
    asyncio.run(load.open_loop([0.0, 0.01]))
    found = figures(load.samples)
    assert found.requests == 0
    assert sum(found.failed.values()) == 2
    assert "404" in next(iter(found.failed))


def test_a_server_that_is_gone_is_counted_and_ends_the_run() -> None:
    load = Load(target=Target(url="http://127.0.0.1:9", model="x"), asks=asks())
    asyncio.run(load.open_loop([0.0, 0.01]))
    assert sum(load.samples.problems.values()) == 2


def test_figures_are_those_of_their_formulas() -> None:
    samples = Samples()
    for number in range(20):
        at = number * 0.1
        samples.add(
            Sample(
                due_s=at,
                begun_s=at,
                first_s=at + 0.2,
                end_s=at + 0.6,
                output_tokens=5,
                prompt_tokens=10,
                chunks=5,
                asked_tokens=5,
            ),
            (100.0,) * 4,
        )
    found = figures(samples, objective=Objective(ttft_ms=150))
    assert found.duration_s == pytest.approx(2.5)
    assert found.output_tokens_per_s == pytest.approx(100 / 2.5)
    assert found.total_tokens_per_s == pytest.approx(300 / 2.5)
    assert found.goodput_per_s == 0
    assert found.ttft_ms is not None
    assert found.ttft_ms.percentiles == {50.0: pytest.approx(200)}
    assert found.ttft_ms.missing == {90.0: 64, 95.0: 130, 99.0: 662}
    assert found.inter_chunk_latency_ms["p50"] == pytest.approx(100, rel=0.01)
    assert figures(samples, warm_up_s=1.0).requests == 10


@pytest.mark.parametrize(("percent", "least"), [(50, 11), (90, 64), (99, 662)])
def test_percentiles_need_enough_requests(percent: float, least: int) -> None:
    assert least_requests(percent) == least


def test_the_time_to_connect_is_latency_and_not_a_lag_of_the_client() -> None:
    second = 1_000_000_000
    exchange = Exchange(method="POST", path="/", begun_ns=2 * second, sent_ns=3 * second, ended_ns=4 * second)
    sample = sample_of(Stream(exchange=exchange), due_ns=2 * second, begun_ns=0, asked_tokens=1)
    assert sample.lag_ms == 0
    assert sample.e2e_ms == 2000


def test_gaps_between_chunks_of_the_warm_up_are_not_counted() -> None:
    samples = Samples(warm_up_s=5.0)
    for due_s, gap_ms in ((1.0, 500.0), (6.0, 20.0)):
        samples.add(
            Sample(due_s=due_s, begun_s=due_s, first_s=7, end_s=8, output_tokens=2, prompt_tokens=1, chunks=2, asked_tokens=2),
            (gap_ms,),
        )
    assert figures(samples, warm_up_s=5.0).inter_chunk_latency_ms["max"] == 20.0


def test_a_late_client_is_said() -> None:
    samples = Samples()
    samples.add(Sample(due_s=0, begun_s=0.5, first_s=1, end_s=2, output_tokens=1, prompt_tokens=1, chunks=1, asked_tokens=1))
    assert "the client sent requests 500 ms late" in figures(samples).client_too_slow


@pytest.mark.slow
def test_a_histogram_is_exact_to_a_percent_and_small() -> None:
    histogram = Histogram()
    for number in range(1, 100_001):
        histogram.add(number / 100)
    assert histogram.quantile(0.5) == pytest.approx(500, rel=0.006)
    assert histogram.quantile(0.99) == pytest.approx(990, rel=0.006)
    assert histogram.mean == pytest.approx(500.005)
    assert len(histogram.buckets) < math.log(1e5) / math.log(1.01) + 2


def turns(count: int = 3, tokens: int = 4) -> Iterator[Ask]:
    """Conversations of ``count`` turns."""
    for number in itertools.count():
        history: list[dict[str, str]] = []
        for turn in range(count):
            history.append({"role": "user", "content": f"conversation {number} turn {turn}"})
            before = number * count + turn - 1 if turn else None
            yield Ask(messages=tuple(history), prompt_tokens=2, output_tokens=tokens, follows=before)
            history.append({"role": "assistant", "content": "synthetic"})


class Remembers(Slow):
    """Keeps every conversation that it was asked, and how many answers of the same one ran at once."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[dict[str, str]]] = []
        self.now: set[str] = set()
        self.overlapping = 0

    async def posted(self, path: str, body: dict[str, Any], connection: Connection) -> Response | None:
        messages = body["messages"]
        self.seen.append(messages)
        name = messages[0]["content"]
        self.overlapping += name in self.now
        self.now.add(name)
        try:
            return await super().posted(path, body, connection)
        finally:
            self.now.discard(name)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 4])
def test_in_an_open_loop_a_later_turn_waits_for_the_answer_before_it(width: int) -> None:
    with running(Remembers) as (url, double):
        load = Load(target=Target(url=url, model="double", fields={"ignore_eos": True}), asks=turns(), width=width)
        asyncio.run(load.open_loop([number * 0.02 for number in range(12)]))
    assert isinstance(double, Remembers)
    assert len(load.samples) == 12
    assert not load.samples.problems
    assert double.overlapping == 0
    assert load.delayed > 0, "requests every 20 ms to answers of 100 ms must wait for one another"
    lag_ms = statistics.median(sample.lag_ms for sample in load.samples)  # a busy machine delays some
    assert lag_ms < 50, "the client was not late: these turns could not be sent earlier"


@pytest.mark.slow
def test_in_a_closed_loop_each_user_has_one_conversation_at_a_time() -> None:
    with running(Remembers) as (url, double):
        load = Load(target=Target(url=url, model="double", fields={"ignore_eos": True}), asks=turns())
        asyncio.run(load.closed_loop(3, 1.0))
    assert isinstance(double, Remembers)
    assert double.overlapping == 0
    assert not load.samples.problems
    assert [len(messages) for messages in double.seen[:9]] == [1, 1, 1, 3, 3, 3, 5, 5, 5]


@pytest.mark.slow
@pytest.mark.parametrize("real", [False, True])
def test_later_turns_repeat_the_answers_of_the_model_if_asked_to(real: bool) -> None:
    with running(Remembers) as (url, double):
        target = Target(url=url, model="double", fields={"ignore_eos": True})
        load = Load(target=target, asks=itertools.islice(turns(), 3), real_history=real)
        asyncio.run(load.open_loop([0.0, 0.01, 0.02]))
    assert isinstance(double, Remembers)
    said = [message["content"] for message in double.seen[-1] if message["role"] == "assistant"]
    assert len(said) == 2
    assert ("synthetic" in said) is not real
    assert all(said)


def test_conversations_alternate_in_an_order_that_depends_on_nothing_else() -> None:
    order = [
        (conversation.asks[turn].messages[0]["content"], turn)
        for conversation, turn in itertools.islice(interleaved(conversations(turns(count=2)), 2), 6)
    ]
    assert [turn for _, turn in order] == [0, 0, 1, 1, 0, 0]
    assert len({name for name, _ in order}) == 4


def test_a_request_that_follows_another_conversation_is_refused() -> None:
    wrong = [Ask(messages=(), prompt_tokens=1, output_tokens=1, follows=before) for before in (None, None, 0)]
    with pytest.raises(ValueError, match="request 2 follows request 0"):
        list(conversations(iter(wrong)))


@pytest.mark.slow
@pytest.mark.parametrize("closed", [False, True])
def test_a_server_that_takes_no_connection_any_more_ends_the_run(closed: bool) -> None:
    load = Load(target=Target(url="http://127.0.0.1:9", model="x"), asks=asks())
    begun = time.monotonic()
    asyncio.run(load.closed_loop(4, 30) if closed else load.open_loop(number * 0.1 for number in range(300)))
    assert load.gone
    assert time.monotonic() - begun < 6
    assert load.sent < 200, "a closed loop does not spin"
