"""The recorder against real sockets."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable

import pytest
import trustme

from unit.loadgen.conftest import Peer, ScriptedServer
from unit.loadgen.wire import DONE, GOOD, HEAD, LAST, ROLE, chat, event, http_chunk
from vllm_ci.domain.errors import UsageError
from vllm_ci.loadgen.client import Client
from vllm_ci.loadgen.exchange import FailureKind, Request, Timeouts
from vllm_ci.loadgen.recorder import Recorder

Serve = Callable[..., ScriptedServer]
PATH = "/v1/chat/completions"


def answer(body: bytes = b"ok", *, status: bytes = b"200 OK", extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n%s\r\n%s" % (status, len(body), extra, body)


def echo(peer: Peer) -> None:
    """Answers every request with its own bytes."""
    while request := peer.request():
        peer.send(answer(request))


def good_stream(peer: Peer) -> None:
    while peer.request():
        peer.send(HEAD, *(http_chunk(event(body)) for body in GOOD), LAST)


def silent(peer: Peer) -> None:
    peer.request()
    peer.until_gone()


def test_a_request_goes_out_byte_for_byte(serve: Serve) -> None:
    with Recorder(serve(echo).url + "/base/", headers={"X-One": "1", "Drop": "me"}) as recorder:
        sent = recorder.post("/a/../b%2f//c?q= ", {"k": "é"}, headers={"x-one": "2", "DROP": None, "host": "other"}).text
    head, _, body = sent.partition("\r\n\r\n")
    lines = head.split("\r\n")
    assert lines[0] == "POST /base/a/../b%2f//c?q=  HTTP/1.1"
    assert {"host: other", "x-one: 2", "content-type: application/json", f"content-length: {len(body)}"} <= set(lines)
    assert "drop" not in head
    assert body == '{"k": "\\u00e9"}'


def test_a_get_announces_no_body(serve: Serve) -> None:
    with Recorder(serve(echo).url) as recorder:
        assert "content-length" not in recorder.get("/").text


def test_a_line_break_in_a_header_is_refused(serve: Serve) -> None:
    with Recorder(serve(echo).url) as recorder, pytest.raises(ValueError, match="line break"):
        recorder.get("/", headers={"x": "a\r\nb: c"})


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://localhost", "http://"])
def test_what_is_no_base_url_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(UsageError, match="http://localhost:8000"):
        Recorder(url)


def test_connections_are_kept_and_reused(serve: Serve) -> None:
    server = serve(echo)
    with Recorder(server.url) as recorder:
        exchanges = [recorder.get("/") for _ in range(3)]
        assert [exchange.reused for exchange in exchanges] == [False, True, True]
        assert [exchange.reused for exchange in recorder.gather([Request(path="/")] * 4)].count(False) == 3
        assert server.connections == 4


def test_connections_are_not_kept_when_asked(serve: Serve) -> None:
    server = serve(echo)
    with Recorder(server.url, keep_alive=False) as recorder:
        assert "connection: close" in [recorder.get("/") for _ in range(2)][1].text
    assert server.connections == 2


def test_a_kept_connection_that_the_server_closed_is_not_used_again(serve: Serve) -> None:
    def once(peer: Peer) -> None:
        peer.request()
        peer.send(answer())

    server = serve(once)
    with Recorder(server.url) as recorder:
        assert recorder.get("/").ok
        assert server.hung_up.wait(5)
        second = recorder.get("/")
    assert second.ok
    assert not second.reused


def test_a_connection_that_spoke_unasked_is_not_used_again(serve: Serve) -> None:
    spoken = threading.Event()

    def chatty(peer: Peer) -> None:
        peer.request()
        peer.send(answer(), answer(b"late", status=b"408 Request Timeout"))
        spoken.set()
        peer.until_gone()

    server = serve(chatty)
    with Recorder(server.url) as recorder:
        assert recorder.get("/").text == "ok"
        assert spoken.wait(5)
        assert recorder.get("/").text == "ok"
    assert server.connections == 2


def test_a_stream_is_recorded_read_by_read(serve: Serve) -> None:
    with Recorder(serve(good_stream).url) as recorder:
        stream = recorder.stream(PATH, {"messages": []})
    assert stream.complete, stream.describe()
    exchange = stream.exchange
    clocks = [read.at_ns for read in exchange.reads]
    assert exchange.begun_ns <= exchange.sent_ns <= clocks[0]
    assert clocks == sorted(clocks)
    assert exchange.ended_ns == clocks[-1]
    assert stream.events[-1].at_ns <= clocks[-1]


def test_a_stream_asks_for_usage_unless_the_request_says_otherwise(serve: Serve) -> None:
    with Recorder(serve(echo).url, continuous_usage=True) as recorder:
        assert recorder.streamed({"a": 1}) == {
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "a": 1,
        }
        assert "stream_options" not in recorder.streamed({"stream_options": None})  # some servers refuse a null


def test_an_event_split_inside_a_character_arrives_whole(serve: Serve) -> None:
    text = "日本語😀"
    raw = http_chunk(
        b'data: {"choices":[{"index":0,"delta":{"content":"' + text.encode() + b'"},"finish_reason":"stop"}]}\r\n\r\n'
    )

    def dribble(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD, *(raw[at : at + 1] for at in range(len(raw))), http_chunk(event(DONE)), LAST)

    with Recorder(serve(dribble).url) as recorder:
        assert recorder.stream(PATH, {}).text == text


def test_concurrent_answers_belong_to_their_requests(serve: Serve) -> None:
    with Recorder(serve(echo).url) as recorder:
        exchanges = recorder.posts("/", [{"number": number} for number in range(40)], limit=8)
    assert [f'{{"number": {number}}}' in exchange.text for number, exchange in enumerate(exchanges)] == [True] * 40


def test_hanging_up_after_some_events_is_seen_by_the_server(serve: Serve) -> None:
    def endless(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD, http_chunk(event(ROLE)))
        while True:
            peer.send(http_chunk(event(chat({"content": "x"}))))

    server = serve(endless)
    with Recorder(server.url) as recorder:
        stream = recorder.stream(PATH, {}, stop_after_events=3)
        assert server.hung_up.wait(5)
    assert stream.exchange.stopped
    assert stream.exchange.failure is None
    assert len(stream.events) >= 3
    assert "the client disconnected" in stream.problems
    assert isinstance(server.problems[0], ConnectionError)


def test_hanging_up_after_a_time_is_seen_by_the_server(serve: Serve) -> None:
    server = serve(silent)
    with Recorder(server.url) as recorder:
        exchange = recorder.send(Request(stop_after_s=0.02))
        assert server.hung_up.wait(5)
    assert (exchange.stopped, exchange.failure, exchange.status) == (True, None, 0)


def stalls(peer: Peer) -> None:
    peer.request()
    peer.send(HEAD, http_chunk(event(ROLE)))
    peer.until_gone()


def trickles(peer: Peer) -> None:
    peer.request()
    peer.send(HEAD)
    peer.sock.settimeout(0.01)
    while True:
        peer.send(http_chunk(event(ROLE)))
        try:
            peer.sock.recv(1)
        except TimeoutError:
            continue


@pytest.mark.parametrize(
    ("script", "timeouts", "kind"),
    [
        (silent, Timeouts(first_byte_s=0.05), FailureKind.FIRST_BYTE_TIMEOUT),
        (stalls, Timeouts(between_bytes_s=0.05), FailureKind.BETWEEN_BYTES_TIMEOUT),
        (trickles, Timeouts(between_bytes_s=5, total_s=0.1), FailureKind.TOTAL_TIMEOUT),
    ],
)
def test_each_timeout_ends_the_exchange_and_is_named(
    serve: Serve, script: Callable[[Peer], None], timeouts: Timeouts, kind: FailureKind
) -> None:
    server = serve(script)
    with Recorder(server.url, timeouts=timeouts) as recorder:
        exchange = recorder.get("/")
        assert server.hung_up.wait(5)
    assert exchange.failure is not None
    assert exchange.failure.kind is kind
    assert "after 0." in str(exchange.failure)
    assert not exchange.ok


def test_a_server_that_trickles_within_its_limits_is_waited_for(serve: Serve) -> None:
    def slow(peer: Peer) -> None:
        peer.request()
        peer.sock.settimeout(0.03)
        peer.send(HEAD)
        for body in GOOD:
            with pytest.raises(TimeoutError):
                peer.sock.recv(1)
            peer.send(http_chunk(event(body)))
        peer.send(LAST)

    with Recorder(serve(slow).url, timeouts=Timeouts(first_byte_s=5, between_bytes_s=5)) as recorder:
        assert recorder.stream(PATH, {}).complete


def test_a_handshake_that_never_ends_is_a_connect_timeout(serve: Serve) -> None:
    url = serve(lambda peer: peer.until_gone()).url.replace("http:", "https:")
    with Recorder(url, timeouts=Timeouts(connect_s=0.05)) as recorder:
        failure = recorder.get("/").failure
    assert failure is not None
    assert failure.kind is FailureKind.CONNECT_TIMEOUT


def test_nobody_listening_is_a_connect_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Recorder(f"http://127.0.0.1:{port}") as recorder:
        exchange = recorder.get("/")
    assert exchange.failure is not None
    assert exchange.failure.kind is FailureKind.CONNECT
    assert exchange.first_byte_ms is None
    assert "no response" in exchange.describe()


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\ncontent-le", HEAD + http_chunk(event(ROLE)), answer(b"12345")[:-1]])
def test_a_server_that_goes_away_in_the_middle_is_a_disconnect(serve: Serve, sent: bytes) -> None:
    def leave(peer: Peer) -> None:
        peer.request()
        peer.send(sent)

    with Recorder(serve(leave).url) as recorder:
        failure = recorder.get("/").failure
    assert failure is not None
    assert failure.kind is FailureKind.DISCONNECTED


def test_a_reset_is_a_disconnect(serve: Serve) -> None:
    def reset(peer: Peer) -> None:
        peer.request()
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with Recorder(serve(reset).url) as recorder:
        failure = recorder.get("/").failure
    assert failure is not None
    assert failure.kind is FailureKind.DISCONNECTED


def test_an_answer_that_is_no_http_is_a_protocol_failure(serve: Serve) -> None:
    def foreign(peer: Peer) -> None:
        peer.request()
        peer.send(b"220 smtp ready\r\n")
        peer.until_gone()

    with Recorder(serve(foreign).url) as recorder:
        failure = recorder.get("/").failure
    assert failure is not None
    assert failure.kind is FailureKind.PROTOCOL


def test_a_body_without_length_ends_with_the_connection(serve: Serve) -> None:
    def old(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.0 200 OK\r\n\r\n", b"hel", b"lo")

    with Recorder(serve(old).url) as recorder:
        exchange = recorder.get("/")
    assert (exchange.text, exchange.ok) == ("hello", True)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_streams_work_over_tls(serve: Serve, authority: trustme.CA) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with Recorder(serve(good_stream, tls=server_tls(authority)).url, tls=trusting) as recorder:
        first, second = (recorder.stream(PATH, {}) for _ in range(2))
    assert first.complete, first.describe()
    assert second.exchange.reused


def test_a_certificate_nobody_vouches_for_is_a_connect_failure(serve: Serve, authority: trustme.CA) -> None:
    with Recorder(serve(good_stream, tls=server_tls(authority)).url) as recorder:
        failure = recorder.stream(PATH, {}).exchange.failure
    assert failure is not None
    assert failure.kind is FailureKind.CONNECT
    assert "certificate" in failure.message.lower()


def test_cancelling_in_the_middle_drops_the_connection(serve: Serve) -> None:
    server = serve(stalls)

    async def cancelled() -> None:
        async with Client(server.url) as client:
            await asyncio.wait_for(client.send(Request()), 0.05)

    with pytest.raises(TimeoutError):
        asyncio.run(cancelled())
    assert server.hung_up.wait(5)


def test_ends_are_told_while_others_still_run(serve: Serve) -> None:
    server = serve(echo)
    seen: list[str] = []

    async def both() -> None:
        async with Client(server.url) as client:
            await client.gather(
                [Request(path="/a"), Request(path="/b")], limit=1, on_end=lambda exchange: seen.append(exchange.path)
            )

    asyncio.run(both())
    assert seen == ["/a", "/b"]


def test_secrets_of_a_request_are_not_in_its_text(serve: Serve) -> None:
    request = Request.post("/", {"prompt": "hush"}, headers={"authorization": "Bearer hush"})
    with Recorder(serve(lambda peer: (peer.request(), peer.send(answer()))).url) as recorder:
        exchange = recorder.send(request)
    assert "hush" not in repr(request)
    assert "hush" not in repr(exchange)
    assert "hush" not in exchange.describe()


def test_fields_that_a_server_refuses_are_left_out(serve: Serve) -> None:
    with Recorder(serve(echo).url, include_usage=False) as recorder:
        assert recorder.streamed({"a": 1}) == {"stream": True, "a": 1}
        assert recorder.streamed({"stream_options": {"include_usage": True}})["stream_options"] == {"include_usage": True}
    with Recorder(serve(echo).url) as recorder:
        assert recorder.streamed({"stream_options": None}) == {"stream": True}
