"""Streams: the same tokens as without streaming, in pieces, with one end each; also many at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from vllm_ci.suites.client import at_once
from vllm_ci.suites.grpc.answer import MISTAKES, Answer, agree
from vllm_ci.suites.grpc.client import Engine
from vllm_ci.suites.grpc.greedy import differences, likeliest
from vllm_ci.suites.grpc.test_health import SERVING, named
from vllm_ci.suites.machine import Watch
from vllm_ci.suites.verdicts import inconclusive

_TOKENS = (48, 12)
"""Of each stream; the second for a slow server."""
_STREAMS = 8
_TRIES = 3
_JUDGED_S = 0.3
"""A stream must take this long for the times of its pieces to be judged."""
_HEALTH_S = 5.0


def test_a_stream_has_the_tokens_of_an_answer_without_streaming(engine: Engine) -> None:
    """Greedy: the pieces together are the answer, but for rounding."""

    def ask(more: Mapping[str, object]) -> list[Answer]:
        sampling = {"max_tokens": engine.sized(*_TOKENS), **more}
        return [engine.generate(ids=engine.prompt(), stream=stream, sampling=sampling) for stream in (False, True)]

    found = differences(engine, ask)
    assert not found, f"without streaming, and as a stream: {found}"


def test_a_stream_ends_with_its_finish_reason(engine: Engine) -> None:
    """One message `complete`, after all pieces; its tokens are those of the last piece, or all of them."""
    answer = engine.generate(ids=engine.prompt(), stream=True, sampling={"max_tokens": 12}).served()
    assert [part.final for part in answer.parts].index(True) == len(answer.parts) - 1, f"messages after the end; {answer.shape}"
    left = tuple(answer.end().output_ids)
    tail = answer.tokens()[len(answer.tokens()) - len(left) :]
    assert left == tail, f"output_ids of the end are {left}; the pieces end with {tail}"


def test_a_stream_arrives_in_pieces(engine: Engine) -> None:
    """The first tokens are there long before the last ones; otherwise a stream is worth nothing to a reader."""
    said = ""
    for _ in range(_TRIES):
        with Watch() as watch:
            answer = engine.send(_request(engine, 0)).served()
        said = _held_back(answer)
        if not said:
            return
        if starved := watch.seen.starved:
            said = f"the machine was busy: {starved}; {said}"
    if "the machine was busy" in said:
        inconclusive(said)
    pytest.fail(said, pytrace=False)


def _held_back(answer: Answer) -> str:
    pieces = [part for part in answer.pieces if part.tokens]
    if len(pieces) < 2:
        return f"{len(answer.tokens())} tokens came in {len(pieces)} pieces"
    first_s, last_s = pieces[0].at_s, answer.parts[-1].at_s
    if last_s >= _JUDGED_S and first_s > 0.8 * last_s:
        return f"the first piece came after {first_s:.2f} s, the last one after {last_s:.2f} s"
    return ""


@pytest.fixture(scope="module")
def alone(engine: Engine) -> list[tuple[int, ...]]:
    """The answers to some prompts, one after another."""
    return [_one(engine, number).served().tokens() for number in range(_STREAMS)]


def _one(engine: Engine, number: int) -> Answer:
    return engine.send(_request(engine, number))


def _request(engine: Engine, number: int, **more: object) -> Any:
    sampling = {"max_tokens": engine.sized(*_TOKENS), **more}
    return engine.request(ids=engine.prompt(number), stream=True, sampling=sampling)


def _together(engine: Engine, requests: list[Any]) -> list[Answer]:
    return at_once(engine.send, requests)


def _confused(answer: Answer, number: int, alone: list[tuple[int, ...]]) -> str:
    """What an answer has of other prompts, or lacks; empty for nothing."""
    tokens = answer.served().tokens()
    if agree(alone[number], tokens):
        return ""
    if len(tokens) != len(alone[number]):
        return f"{len(tokens)} tokens instead of {len(alone[number])}"
    others = [each for each, known in enumerate(alone) if known != alone[number] and agree(known, tokens)]
    return f"the tokens of the prompt of stream {others[0]}" if others else ""


def test_concurrent_streams_have_their_own_tokens(engine: Engine, alone: list[tuple[int, ...]]) -> None:
    """Greedy: each of several streams has the tokens that it has alone, but for rounding."""
    if len(set(alone)) == 1:
        inconclusive("the model answers all prompts with the same tokens, so that answers cannot be told apart")
    found = _together(engine, [_request(engine, number) for number in range(_STREAMS)])
    for number, answer in enumerate(found):
        assert not (what := _confused(answer, number, alone)), f"of {_STREAMS} streams, stream {number} has {what}"
    if all(agree(alone[number], answer.tokens()) for number, answer in enumerate(found)):
        return
    assert engine.samples("logprobs"), "streams have other tokens than alone"
    for number, answer in enumerate(_together(engine, [_request(engine, each, logprobs=1) for each in range(_STREAMS)])):
        assert likeliest(answer), f"stream {number} has other tokens than alone, and not the likeliest: {answer.tokens()}"


def test_requests_with_one_name_are_kept_apart(engine: Engine, alone: list[tuple[int, ...]]) -> None:
    """Names come from clients, who may choose the same; the second may be refused, but the first gets its own tokens."""
    requests = [_request(engine, number) for number in range(2)]
    for request in requests:
        request.request_id = requests[0].request_id
    found = _together(engine, requests)
    served = [number for number in range(2) if found[number].code is grpc.StatusCode.OK]
    assert served, f"of two requests with one name none is served: {found[0].said}; {found[1].said}"
    for number in served:
        assert not (what := _confused(found[number], number, alone)), f"of two requests with one name one has {what}"
    refusals = {each.code for each in found} - {grpc.StatusCode.OK, grpc.StatusCode.ALREADY_EXISTS, *MISTAKES}
    assert not refusals, f"of two requests with one name one ends with {', '.join(code.name for code in refusals)}"


def test_health_is_answered_during_streams(engine: Engine) -> None:
    """A probe that is not answered in time ends a pod that works."""
    bound_s = _HEALTH_S * engine.slowness
    requests = [_request(engine, number) for number in range(_STREAMS)]
    with ThreadPoolExecutor(_STREAMS) as pool:
        streams = [pool.submit(engine.send, request) for request in requests]
        begun = time.monotonic()
        try:
            status = engine.health(timeout_s=bound_s)
        except grpc.RpcError as error:
            pytest.fail(f"health during {_STREAMS} streams ends with {error.code().name}", pytrace=False)
        seconds = time.monotonic() - begun
        for each in streams:
            each.result().served()
    assert status == SERVING, f"health during {_STREAMS} streams is {named(status)} after {seconds:.1f} s"
