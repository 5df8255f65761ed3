import pytest

from unit.loadgen.wire import HEAD, LAST, http_chunk
from vllm_ci.loadgen.http1 import Sentinel, body, parse

LENGTH = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\nX-A: 1\r\nx-a: 2\r\n\r\nhello"
CHUNKED = HEAD + http_chunk(b"hel") + http_chunk(b"lo") + LAST
TRAILERS = HEAD + http_chunk(b"hello") + b"0\r\nX-Sum: 1\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\nX-Early: 1\r\n\r\n" + LENGTH
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.mark.parametrize(
    ("message", "status", "content"),
    [
        (LENGTH, 201, b"hello"),
        (CHUNKED, 200, b"hello"),
        (TRAILERS, 200, b"hello"),
        (INTERIM, 201, b"hello"),
        (EMPTY, 204, b""),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096])
def test_a_response_is_the_same_in_reads_of_any_size(message: bytes, status: int, content: bytes, size: int) -> None:
    reads = [(at, message[at : at + size]) for at in range(0, len(message), size)]
    response = parse([data for _, data in reads], method="POST", closed=False)
    assert (response.status, response.complete) == (status, True)
    assert b"".join(piece for _, piece in body(reads, method="POST")) == content
    assert not response.error


@pytest.mark.parametrize("message", [LENGTH, CHUNKED, TRAILERS, INTERIM, EMPTY])
def test_the_sentinel_says_the_end_at_the_last_byte_and_not_before(message: bytes) -> None:
    sentinel = Sentinel("POST")
    for at in range(len(message) - 1):
        sentinel.feed(message[at : at + 1])
        assert not sentinel.ended
    sentinel.feed(message[-1:])
    assert sentinel.ended
    assert sentinel.reusable


def test_headers_keep_their_order_and_repeat_and_those_of_an_interim_response_go() -> None:
    assert parse([INTERIM], method="GET", closed=False).headers == (("content-length", "5"), ("x-a", "1"), ("x-a", "2"))


def test_a_piece_of_body_has_the_clock_of_its_read() -> None:
    reads = [(1, HEAD), (2, http_chunk(b"ab") + http_chunk(b"c")), (3, http_chunk(b"de")[:5]), (4, http_chunk(b"de")[5:])]
    assert list(body(reads, method="GET")) == [(2, b"ab"), (2, b"c"), (3, b"de")]


@pytest.mark.parametrize("message", [LENGTH[:-1], CHUNKED[:-2], HEAD, LENGTH[:20]])
def test_a_response_that_is_cut_off_is_not_complete_though_the_server_closed(message: bytes) -> None:
    assert not parse([message], method="GET", closed=True).complete


def test_a_body_without_length_ends_when_the_server_closes() -> None:
    reads = [(1, b"HTTP/1.1 200 OK\r\n\r\nhel"), (2, b"lo")]
    assert not parse([data for _, data in reads], method="GET", closed=False).complete
    assert parse([data for _, data in reads], method="GET", closed=True).complete
    assert list(body(reads, method="GET")) == [(1, b"hel"), (2, b"lo")]


def test_the_answer_to_head_has_a_length_and_no_body() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
    sentinel = Sentinel("HEAD")
    sentinel.feed(head)
    assert sentinel.ended
    assert parse([head], method="HEAD", closed=False).complete


def test_connection_close_is_not_reused() -> None:
    sentinel = Sentinel("GET")
    sentinel.feed(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    assert (sentinel.ended, sentinel.reusable) == (True, False)


def test_what_is_no_http_is_said_to_be_none() -> None:
    response = parse([b"SSH-2.0-OpenSSH\r\n"], method="GET", closed=True)
    assert (response.status, response.complete) == (0, False)
    assert response.error


def test_bytes_after_the_end_do_not_change_the_answer() -> None:
    reads = [(1, LENGTH + b"garbage"), (2, b"more")]
    response = parse([data for _, data in reads], method="GET", closed=False)
    assert (list(body(reads, method="GET")), response.complete, response.error) == ([(1, b"hello")], True, "")


@pytest.mark.parametrize("second", [LENGTH, CHUNKED, INTERIM])
def test_a_message_behind_the_answer_is_not_part_of_it_and_spoils_the_connection(second: bytes) -> None:
    sentinel = Sentinel("GET")
    sentinel.feed(LENGTH + second)
    assert (sentinel.ended, sentinel.reusable) == (True, False)
    assert list(body([(1, LENGTH + second)], method="GET")) == [(1, b"hello")]
