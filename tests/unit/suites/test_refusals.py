"""Whether a refused request is sent again: waits for a server that refuses everything, not for one that refuses one request."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import pytest

from vllm_ci.suites.refusals import asks_to_wait
from vllm_ci.suites.traffic import RateLimitedError, Traffic


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Server:
    """A server with a rate limit: whether it refuses a request, and a control, at a time."""

    def __init__(self, refuses: Callable[[str], bool], retry_after: str | None = None, total_wait_s: float = 120) -> None:
        self.refuses, self.retry_after = refuses, retry_after
        self.clock = Clock()
        self.traffic = Traffic(total_wait_s=total_wait_s, clock=self.clock)
        self.traffic.control = lambda: not self.refuses("control")
        self.sent = 0

    def ask(self, path: str = "/v1/completions") -> int:
        refusals = self.traffic.sent("POST", path)
        while True:
            self.sent += 1
            status = 429 if self.refuses(path) else 200
            pause_s = refusals.pause_s(status, self.retry_after)
            if pause_s is None:
                return status
            self.clock.now += pause_s


def always_but_controls(what: str) -> bool:
    return what != "control"


@pytest.mark.parametrize("retry_after", [None, "0", "3", "20", "86400", "soon"])
def test_a_request_that_is_always_refused_gets_its_answer_and_leaves_the_time_for_others(retry_after: str | None) -> None:
    server = Server(always_but_controls, retry_after)
    assert server.ask() == 429
    assert server.traffic.waited_s <= 5, "the time for the whole run is used up by one request"
    assert server.clock.now <= 36
    assert server.traffic.facts["refused_alone"] == {"POST /v1/completions": 1}


def test_requests_like_it_are_answered_sooner() -> None:
    server = Server(always_but_controls, "20")
    server.ask()
    first_s, begun_s = server.clock.now, server.clock.now
    server.ask()
    assert server.clock.now - begun_s < first_s / 5


def test_after_many_such_refusals_one_more_try_is_enough() -> None:
    server = Server(always_but_controls, "20")
    for _ in range(10):
        server.ask()
    begun_s, server.sent = server.clock.now, 0
    assert server.ask() == 429
    assert server.sent == 2
    assert server.clock.now - begun_s < 0.5


@pytest.mark.parametrize("retry_after", [None, "30"])
def test_many_kinds_of_refused_requests_take_little_time(retry_after: str | None) -> None:
    server = Server(always_but_controls, retry_after)
    assert {server.ask(f"/{number}") for number in range(200)} == {429}
    assert server.traffic.waited_s <= 15
    assert server.clock.now < 250


@pytest.mark.parametrize("retry_after", [None, "1", "7"])
def test_a_server_that_refuses_everything_for_some_seconds_is_waited_for(retry_after: str | None) -> None:
    server = Server(lambda _what: server.clock.now < 25, retry_after)
    assert server.ask() == 200
    assert "refused_alone" not in server.traffic.facts


def test_a_server_that_refuses_everything_for_ever_is_a_rate_limit() -> None:
    server = Server(lambda _what: True)
    with pytest.raises(RateLimitedError):
        server.ask()


def test_without_a_control_every_refusal_is_waited_for() -> None:
    server = Server(always_but_controls)
    server.traffic.control = None
    with pytest.raises(RateLimitedError):
        server.ask()


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_refusals_at_random_are_waited_for(share: float) -> None:
    chance = random.Random(1)
    server = Server(lambda _what: chance.random() < share, "0", total_wait_s=1e9)
    assert {server.ask() for _ in range(1000)} == {200}


def test_a_server_that_takes_so_many_requests_a_second_is_waited_for() -> None:
    taken: list[float] = []

    def refuses(_what: str) -> bool:
        now = server.clock.now
        taken[:] = [at for at in taken if at > now - 1]
        if len(taken) >= 2:
            return True
        taken.append(now)
        return False

    server = Server(refuses, "1", total_wait_s=1e9)
    assert {server.ask() for _ in range(200)} == {200}


def test_the_first_refusal_needs_no_control() -> None:
    answers: Iterator[bool] = itertools.chain([True], itertools.repeat(False))
    server = Server(lambda what: what == "control" or next(answers))
    assert server.ask() == 200
    assert server.sent == 2


def test_only_answers_that_may_be_repeated_later_ask_to_wait() -> None:
    assert asks_to_wait(429, None)
    assert asks_to_wait(503, "1")
    assert not any(asks_to_wait(status, "1") for status in (200, 400, 404, 500, 502))
    assert not asks_to_wait(503, None)
