"""One broken kind of stream has one cause, and streams that hang are not requested again and again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from unit.loadgen.wire import DONE, GOOD, HEAD, ROLE, USAGE, chat, recorded, stream_of
from unit.suites.test_parts import SERVER
from vllm_ci.loadgen.exchange import Exchange, Failure, FailureKind
from vllm_ci.loadgen.recorder import Recorder
from vllm_ci.loadgen.stream import Stream
from vllm_ci.suites.plugins.recording import counts_every_chunk
from vllm_ci.suites.streaming.asking import Asking, Endpoint, first_choice
from vllm_ci.suites.streaming.causes import BrokenStreamError, StreamFault, StreamsHangError

CHAT = Endpoint(name="chat", path="/v1/chat/completions", chunk_object="chat.completion.chunk", server=SERVER)


@dataclass
class Replay:
    """A recorder that returns the same stream always."""

    found: Stream
    sent: list[Any] = field(default_factory=list)

    def streaming(self, path: str, body: Any, **_options: Any) -> Any:
        return path, body

    def streams_of(self, requests: Any, **_options: Any) -> tuple[Stream, ...]:
        self.sent += requests
        return (self.found,) * len(requests)


def asking(found: Stream) -> tuple[Asking, Replay]:
    replay = Replay(found)
    return Asking(recorder=cast("Recorder", replay)), replay


def hung() -> Stream:
    failure = Failure(kind=FailureKind.BETWEEN_BYTES_TIMEOUT, message="after 30 s")
    return Stream(
        exchange=Exchange(
            method="POST", path="/", begun_ns=0, sent_ns=0, ended_ns=1, clocks_ns=(1,), data=(HEAD,), transport_failure=failure
        )
    )


@pytest.mark.parametrize("bodies", [GOOD, GOOD[:-1], [*GOOD[:3], DONE]], ids=["complete", "without [DONE]", "without usage"])
def test_what_has_a_case_of_its_own_does_not_fail_the_others(bodies: list[object]) -> None:
    ask, _ = asking(stream_of(*bodies))
    assert ask.stream(CHAT, {}).text == "ab"
    assert len(ask.kept) == 1


@pytest.mark.parametrize(
    ("bodies", "cause"),
    [
        ([ROLE, chat({"content": "a"}), USAGE, DONE], "stream-incomplete:no-finish-reason"),
        ([*GOOD[:3], {"error": {"message": "boom"}}, DONE], "stream-error-object"),
        ([*GOOD[:2], b"{half", *GOOD[2:]], "stream-malformed"),
        ([USAGE, DONE], "stream-incomplete:no-choices"),
    ],
)
def test_a_broken_stream_has_a_cause_that_is_the_same_for_one_and_for_many(bodies: list[object], cause: str) -> None:
    ask, _ = asking(stream_of(*bodies))
    with pytest.raises(BrokenStreamError) as one:
        ask.stream(CHAT, {})
    with pytest.raises(BrokenStreamError, match="3 of 3 streams") as many:
        ask.streams(CHAT, [{}, {}, {}])
    assert one.value.cause == many.value.cause
    assert one.value.cause["id"] == cause
    assert one.value.cause["title"]


def test_a_connection_that_breaks_has_a_cause() -> None:
    ask, _ = asking(Stream(exchange=recorded(HEAD, closed=True)))
    with pytest.raises(BrokenStreamError) as raised:
        ask.stream(CHAT, {})
    assert raised.value.cause["id"] == "stream-incomplete:connection"


def test_after_two_timeouts_no_more_streams_are_requested_with_the_same_cause() -> None:
    ask, replay = asking(hung())
    for _ in range(2):
        with pytest.raises(BrokenStreamError) as raised:
            ask.stream(CHAT, {})
    with pytest.raises(StreamsHangError) as later:
        ask.streams(CHAT, [{}] * 16)
    assert len(replay.sent) == 3  # the last one asks whether the server is only slow
    assert raised.value.cause == later.value.cause


def test_concurrent_streams_that_hang_count_once() -> None:
    ask, replay = asking(hung())
    for _ in range(2):
        ask.attempts(CHAT, [{}] * 16)
    assert len(replay.sent) == 33
    with pytest.raises(StreamsHangError):
        ask.attempt(CHAT, {})


def test_extensions_are_used_only_where_the_server_has_them() -> None:
    plain = Endpoint(
        **{**vars(CHAT), "server": type(SERVER)(**{**vars(SERVER), "absent": {"ignore_eos": "no", "token_ids": "no"}})}
    )
    assert set(plain.exactly("hello", 4)) == {"model", "messages", "max_tokens"}
    assert {"ignore_eos", "return_token_ids"} <= set(CHAT.exactly("hello", 4))


def test_answers_of_another_server_may_be_shorter() -> None:
    shorter = stream_of(*GOOD)  # usage counts 2 tokens
    vllm = Endpoint(**{**vars(CHAT), "server": type(SERVER)(**{**vars(SERVER), "is_vllm": True})})
    assert CHAT.wrong_counts([shorter], [5]) == ""
    assert "2 tokens, not exactly 5" in vllm.wrong_counts([shorter], [5])
    assert "2 tokens, not at most 1" in CHAT.wrong_counts([shorter], [1])
    assert CHAT.wrong_counts([stream_of(*GOOD[:3], DONE)], [5]) == "", "nobody counts"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": null}', b'{"choices": [1]}'])
def test_odd_answers_are_described(body: bytes) -> None:
    odd = recorded(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
    with pytest.raises(AssertionError, match=r"the response|the first choice"):
        first_choice(odd)


def test_usage_on_the_last_chunk_alone_is_not_continuous() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert not counts_every_chunk(
        stream_of(ROLE, chat({"content": "a"}), chat({"content": "b"}, finish="stop", usage=usage), DONE)
    )
    assert counts_every_chunk(
        stream_of(ROLE | {"usage": usage}, chat({"content": "a"}, usage=usage), chat({}, finish="stop"), DONE)
    )
    assert not counts_every_chunk(stream_of(DONE))


@dataclass
class Slow(Replay):
    """Streams that do not end in time, unless they are requested alone."""

    alone: Stream = field(default_factory=lambda: stream_of(*GOOD))

    def streams_of(self, requests: Any, **options: Any) -> tuple[Stream, ...]:
        found = super().streams_of(requests, **options)
        return found if len(requests) > 1 else (self.alone,)


def test_a_slow_server_is_not_given_up() -> None:
    ask = Asking(recorder=cast("Recorder", Slow(hung())))
    for _ in range(3):
        ask.attempts(CHAT, [{}] * 16)
    assert not ask.attempt(CHAT, {}).defects


def test_timeouts_are_forgiven_only_so_many_times() -> None:
    ask = Asking(recorder=cast("Recorder", Slow(hung())))
    for _ in range(6):
        ask.attempts(CHAT, [{}] * 16)
    with pytest.raises(StreamsHangError):
        ask.attempts(CHAT, [{}] * 16)


def test_streams_that_end_early_only_among_others_are_interrupted() -> None:
    ask = Asking(recorder=cast("Recorder", Slow(stream_of(ROLE, chat({"content": "a"}), DONE))))
    with pytest.raises(StreamFault, match="complete alone") as raised:
        ask.streams(CHAT, [{}] * 4)
    assert raised.value.cause["id"] == "stream-interrupted"
