"""The speed of a server is measured, and no kind of server makes the measurement fail."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.generation import Generation
from doubles.refusal import RefusedError
from doubles.running import running
from doubles.server import Double
from doubles.wire import Connection, Request, Response
from vllm_ci.loadgen.recorder import Recorder
from vllm_ci.suites import speed
from vllm_ci.suites.speed import Speed, Unmeasured

pytestmark = pytest.mark.slow


class Slow(Double):
    token_s = 0.02


class NoUsage(Slow):
    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:  # noqa: ARG002
        yield from ()


class NoExtensions(Slow):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        if "ignore_eos" in body:
            raise RefusedError("unknown field: ignore_eos", kind="Bad Request")
        return super().asked(body, chat=chat)


class OneAtATime(Slow):
    async def completed(self, asked: Asked, body: Json, connection: Connection) -> Response | None:
        if self.counts["running"]:
            raise RefusedError("slow down", status=429, kind="RateLimit")
        return await super().completed(asked, body, connection)


class Closed(Double):
    async def completed(self, asked: Asked, body: Json, connection: Connection) -> Response | None:  # noqa: ARG002
        raise RefusedError("quota exceeded", status=429, kind="RateLimit")


class Silent(Double):
    async def routed(self, request: Request, connection: Connection) -> Response | None:  # noqa: ARG002
        await asyncio.sleep(60)
        return None


def measured(make: type[Double], *, chat: bool = False) -> Speed | Unmeasured:
    with running(make) as (url, _), Recorder(url) as recorder:
        return speed.measure(recorder, model=Double.model, chat=chat, max_model_len=2048)


@pytest.mark.parametrize("chat", [False, True])
def test_the_time_of_a_token_is_that_of_the_server(chat: bool) -> None:
    found = measured(Slow, chat=chat)
    assert isinstance(found, Speed)
    assert 0.018 < found.step_s < 0.1  # a busy machine makes it look slower, never faster
    assert found.step(1) == found.step_s
    assert found.step(40) >= found.step(8) >= found.step_s
    assert found.facts["streams"] == 8


@pytest.mark.parametrize("make", [NoUsage, NoExtensions, OneAtATime])
def test_servers_that_lack_something_are_measured_as_well(make: type[Double]) -> None:
    found = measured(make)
    assert isinstance(found, Speed)
    assert 0.01 < found.step_s < 0.2


def test_a_server_that_allows_one_request_at_a_time_is_expected_to_take_them_in_turn() -> None:
    found = measured(OneAtATime)
    assert isinstance(found, Speed)
    assert found.request(8) >= 7.9 * found.request_s


def test_a_server_that_refuses_to_stream_is_not_judged() -> None:
    found = measured(Closed)
    assert isinstance(found, Unmeasured)
    assert "429" in found.why


def test_a_server_that_does_not_answer_costs_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_BOUND_S", 0.3)
    found = measured(Silent)
    assert isinstance(found, Unmeasured) or found.request_s >= 0.3


def test_waits_get_longer_on_slow_servers_only() -> None:
    fast = Speed(request_s=0.01, step_s=0.001, crowd_request_s=0.02, crowd_step_s=0.002, prompt_token_s=0)
    slow = Speed(request_s=1, step_s=0.5, crowd_request_s=4, crowd_step_s=1, prompt_token_s=0)
    assert fast.slowness == 1
    assert slow.slowness == pytest.approx(1 + 15 * 3 / 7)
