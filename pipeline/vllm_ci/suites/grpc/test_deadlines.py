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

from vllm_ci.suites.grpc.answer import CallError, Part
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
_MEASURED = 32


@dataclass(frozen=True, kw_only=True)
class Long:
    """An answer that takes long.

    Attributes:
        tokens: As many as the context allows.
        seconds: How long it would take, as measured.
    """

    tokens: int
    seconds: float


@pytest.fixture(scope="module")
def long(engine: Engine) -> Long:
    """The longest answer."""
    context = int(engine.model.max_context_length) if engine.model is not None else 0
    tokens = min((context or 512) - len(engine.prompt()) - 1, _MOST)
    speed = engine.generate(ids=engine.prompt(), stream=True, sampling={"max_tokens": _MEASURED}).served()
    return Long(tokens=tokens, seconds=speed.seconds * tokens / _MEASURED)


@pytest.fixture(scope="module")
def idle(engine: Engine, long: Long) -> int:
    """Requests that the engine runs without ours; cases are skipped where it does not tell."""
    before = engine.running()
    if before is None:
        pytest.skip("the service does not tell what the engine runs (GetLoads)")
    seen: list[int] = []

    def look(call: Any, parts: list[Part]) -> None:
        if len(parts) == _FEW:
            seen.append(engine.running() or 0)
            call.cancel()

    answer = engine.generate(ids=engine.prompt(), stream=True, sampling={"max_tokens": long.tokens}, during=look)
    if not seen:
        inconclusive(f"the longest answer has only {len(answer.parts)} pieces, which is too few to be cut")
    if seen[0] <= before:
        pytest.skip("GetLoads counts no request while one is running")
    return before


def _require_serving(engine: Engine) -> None:
    engine.generate(ids=engine.prompt(1)).served()
    status = engine.health()
    assert status == SERVING, f"health is {named(status)} afterwards"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_deadline_ends_the_call(engine: Engine, long: Long, stream: bool) -> None:
    """DEADLINE_EXCEEDED, and the server serves others."""
    _by_deadline(engine, long, stream=stream)
    _require_serving(engine)


def test_an_expired_deadline_harms_nobody(engine: Engine) -> None:
    """A request whose time is over when it comes is refused, and others are served."""
    for _ in range(_FEW):
        answer = engine.generate(ids=engine.prompt(), sampling={"max_tokens": 16}, timeout_s=_EXPIRED_S)
        assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED, f"a request with a deadline of 1 ms ends with {answer.said}"
    _require_serving(engine)


def test_a_cancelled_stream_harms_nobody(engine: Engine, long: Long) -> None:
    """The server serves others after a client went away."""
    _by_cancellation(engine, long)
    _require_serving(engine)


def test_an_abort_ends_the_stream(engine: Engine, long: Long) -> None:
    """`Abort` names a request; its stream ends by an error, or with the finish reason `abort`."""
    _by_abort(engine, long)
    _require_serving(engine)


def test_an_abort_of_an_unknown_request_harms_nobody(engine: Engine) -> None:
    """It was finished already, as a rule; a running stream goes on."""

    def abort(_: Any) -> None:
        try:
            engine.call("Abort", request_ids=["vllm-ci-no-such-request"])
        except CallError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise

    answer = engine.generate(ids=engine.prompt(), stream=True, sampling={"max_tokens": 32}, during=_after_a_few(abort))
    assert len(answer.served().tokens()) == 32, f"a stream beside it has {len(answer.tokens())} tokens instead of 32"


def _by_deadline(engine: Engine, long: Long, *, stream: bool) -> None:
    sampling = {"max_tokens": long.tokens}
    answer = engine.generate(ids=engine.prompt(), stream=stream, sampling=sampling, timeout_s=_DEADLINE_S)
    if answer.code is grpc.StatusCode.OK and len(answer.served().tokens()) == long.tokens:
        inconclusive(f"{long.tokens} tokens came within the deadline of {_DEADLINE_S} s")
    assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED, f"a request with a short deadline ends with {answer.said}"


def _by_cancellation(engine: Engine, long: Long) -> None:
    sampling = {"max_tokens": long.tokens}
    answer = engine.generate(
        ids=engine.prompt(), stream=True, sampling=sampling, during=_after_a_few(lambda call: call.cancel())
    )
    assert answer.code is grpc.StatusCode.CANCELLED, f"a cancelled stream ends with {answer.said}"


def _by_abort(engine: Engine, long: Long) -> None:
    name = f"vllm-ci-abort-{time.time_ns():x}"
    engine.method("Abort")
    answer = engine.generate(
        ids=engine.prompt(),
        stream=True,
        request_id=name,
        sampling={"max_tokens": long.tokens},
        during=_after_a_few(lambda _: engine.call("Abort", request_ids=[name])),
        timeout_s=max(long.seconds / 2, _LEAST_S),
    )
    tokens = len(answer.tokens())
    late = answer.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not late, f"a stream goes on after Abort: {tokens} tokens until its deadline"
    assert tokens < long.tokens, f"a stream goes on to its end after Abort: {tokens} tokens"
    if answer.code is grpc.StatusCode.OK:
        reasons = [part.message.finish_reason for part in answer.ends]
        assert reasons != ["length"], f"an aborted stream of {tokens} tokens ends as if it were whole, with 'length'"


ENDS: dict[str, Callable[[Engine, Long], None]] = {
    "its deadline": lambda engine, long: _by_deadline(engine, long, stream=False),
    "the deadline of a stream": lambda engine, long: _by_deadline(engine, long, stream=True),
    "its cancellation": _by_cancellation,
    "Abort": _by_abort,
}


@pytest.mark.parametrize("end", list(ENDS))
def test_the_engine_ends_what_nobody_waits_for(engine: Engine, long: Long, idle: int, end: str) -> None:
    """Long before it would end by itself: what it computes for nobody, others wait for."""
    begun = time.monotonic()
    ENDS[end](engine, long)
    left_s = long.seconds - (time.monotonic() - begun)
    if left_s < _LEAST_S:
        inconclusive(f"the answer would end by itself after {left_s:.1f} s, too early to tell whether it was ended")
    cut, running = time.monotonic(), idle + 1
    while time.monotonic() - cut < left_s / 2:
        running = engine.running() or 0
        if running <= idle:
            return
        time.sleep(_BETWEEN_S)
    said = f"{left_s / 2:.1f} s after {end} the engine still runs {running} requests; before it, {idle}"
    pytest.fail(said, pytrace=False)


def _after_a_few(act: Callable[[Any], None]) -> Callable[[Any, list[Part]], None]:
    """Act once, when a few messages have come."""

    def during(call: Any, parts: list[Part]) -> None:
        if len(parts) == _FEW:
            act(call)

    return during
