"""Deadlines, cancellation and Abort: a request that nobody waits for ends, and the engine is free for others.

The client sees its own deadline whatever the server does, so these cases look at what the engine still runs (``GetLoads``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from vllm_ci.suites.grpc.answer import Answer, Part
from vllm_ci.suites.grpc.client import Engine
from vllm_ci.suites.grpc.test_health import SERVING, named
from vllm_ci.suites.verdicts import inconclusive

_DEADLINE_S = 0.5
_EXPIRED_S = 0.001
_BETWEEN_S = 0.1
_LEAST_S = 1.5
"""The rest of an answer must take this long, so that it does not end by itself while it is looked for."""
_FEW = 4
_MOST = 20_000


@dataclass(frozen=True, kw_only=True)
class Long:
    """An answer that takes long.

    Attributes:
        tokens: As many as the context allows.
        seconds: How long it would take, as measured.
        idle: Requests that the engine runs without it.
    """

    tokens: int
    seconds: float
    idle: int


@pytest.fixture(scope="module")
def long(engine: Engine) -> Long:
    """The longest answer; cases are skipped where the engine does not tell what it runs, or is not ours alone."""
    idle = engine.running()
    if idle is None:
        pytest.skip("the service does not tell what the engine runs (GetLoads)")
    context = int(engine.model.max_context_length) if engine.model is not None else 0
    tokens = min((context or 512) - len(engine.prompt()) - 1, _MOST)
    seen: list[int | None] = []

    def look(call: Any, parts: list[Part]) -> None:
        if len(parts) == _FEW:
            seen.append(engine.running())
            call.cancel()

    answer = engine.generate(ids=engine.prompt(), stream=True, sampling={"max_tokens": tokens}, during=look)
    if not seen:
        inconclusive(f"the longest answer has only {len(answer.parts)} pieces, which is too few to be cut")
    if (seen[0] or 0) <= idle:
        pytest.skip("GetLoads counts no request while one is running")
    speed = engine.generate(ids=engine.prompt(), stream=True, sampling={"max_tokens": 32}).served()
    return Long(tokens=tokens, seconds=speed.seconds * tokens / 32, idle=idle)


def _require_freed(engine: Engine, long: Long, left_s: float, what: str) -> None:
    """Fail unless the engine ends the request long before it would end by itself."""
    if left_s < _LEAST_S:
        inconclusive(f"the answer would end by itself after {left_s:.1f} s, too early to tell whether it was ended")
    begun = time.monotonic()
    running: int | None = None
    while time.monotonic() - begun < left_s / 2:
        running = engine.running()
        if running is None or running <= long.idle:
            return
        time.sleep(_BETWEEN_S)
    pytest.fail(
        f"{left_s / 2:.1f} s after {what} the engine still runs {running} requests, before it {long.idle}", pytrace=False
    )


def _require_serving(engine: Engine) -> None:
    engine.generate(ids=engine.prompt(1)).served()
    status = engine.health()
    assert status == SERVING, f"health is {named(status)} afterwards"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_deadline_ends_the_request(engine: Engine, long: Long, stream: bool) -> None:
    """DEADLINE_EXCEEDED in time; the engine ends the request, and serves others."""
    answer = engine.generate(ids=engine.prompt(), stream=stream, sampling={"max_tokens": long.tokens}, timeout_s=_DEADLINE_S)
    _require_cut(answer, long)
    _require_freed(engine, long, long.seconds - answer.seconds, "the deadline")
    _require_serving(engine)


def _require_cut(answer: Answer, long: Long) -> None:
    if answer.code is grpc.StatusCode.OK and len(answer.served().tokens()) == long.tokens:
        inconclusive(f"{long.tokens} tokens came within the deadline of {_DEADLINE_S} s")
    assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED, f"a request with a short deadline ends with {answer.said}"


def test_an_expired_deadline_harms_nobody(engine: Engine) -> None:
    """A request whose time is over when it comes is refused, and others are served."""
    for _ in range(_FEW):
        answer = engine.generate(ids=engine.prompt(), sampling={"max_tokens": 16}, timeout_s=_EXPIRED_S)
        assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED, f"a request with a deadline of 1 ms ends with {answer.said}"
    _require_serving(engine)


def test_a_cancelled_stream_is_ended(engine: Engine, long: Long) -> None:
    """A client that goes away must not keep the engine busy."""
    answer = engine.generate(
        ids=engine.prompt(), stream=True, sampling={"max_tokens": long.tokens}, during=_after_a_few(_cancel)
    )
    assert answer.code is grpc.StatusCode.CANCELLED, f"a cancelled stream ends with {answer.said}"
    _require_freed(engine, long, long.seconds - answer.seconds, "the client cancelled the stream")
    _require_serving(engine)


def test_an_abort_ends_the_stream(engine: Engine, long: Long) -> None:
    """`Abort` names a request; its stream ends by an error, or with the finish reason `abort`."""
    name = f"vllm-ci-abort-{time.time_ns():x}"
    engine.method("Abort")

    def abort(_: Any) -> None:
        engine.call("Abort", request_ids=[name])

    begun = time.monotonic()
    answer = engine.generate(
        ids=engine.prompt(),
        stream=True,
        request_id=name,
        sampling={"max_tokens": long.tokens},
        during=_after_a_few(abort),
        timeout_s=max(long.seconds / 2, _LEAST_S),
    )
    tokens = len(answer.tokens())
    assert answer.code is not grpc.StatusCode.DEADLINE_EXCEEDED, (
        f"a stream goes on after Abort: {tokens} tokens until its deadline"
    )
    assert tokens < long.tokens, f"a stream goes on to its end after Abort: {tokens} tokens"
    if answer.code is grpc.StatusCode.OK:
        reasons = [part.message.finish_reason for part in answer.ends]
        assert reasons != ["length"], f"an aborted stream of {tokens} tokens ends as if it were whole, with 'length'"
    _require_freed(engine, long, long.seconds - (time.monotonic() - begun), "Abort")
    _require_serving(engine)


def test_an_abort_of_an_unknown_request_harms_nobody(engine: Engine) -> None:
    """It was finished already, as a rule; a running stream goes on."""

    def abort(_: Any) -> None:
        try:
            engine.call("Abort", request_ids=["vllm-ci-no-such-request"])
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                pytest.fail(f"Abort of an unknown request ends with {error.code().name}: {error.details()}", pytrace=False)

    answer = engine.generate(ids=engine.prompt(), stream=True, sampling={"max_tokens": 32}, during=_after_a_few(abort))
    assert len(answer.served().tokens()) == 32, f"a stream beside it has {len(answer.tokens())} tokens instead of 32"


def _cancel(call: Any) -> None:
    call.cancel()


def _after_a_few(act: Callable[[Any], None]) -> Callable[[Any, list[Part]], None]:
    """Act once, when a few messages have come."""

    def during(call: Any, parts: list[Part]) -> None:
        if len(parts) == _FEW:
            act(call)

    return during
