"""The specification's rules, then: however a stream is cut, the same events come out."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.loadgen.sse import Decoder, Event, decode


def data(text: bytes) -> list[str]:
    return [event.data for event in decode([(1, text)])]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"data: a\n\n", ["a"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b"data: a\n\r\ndata: b\r\n\n", ["a", "b"]),
        (b"data:a\ndata:  b\n\n", ["a\n b"]),
        (b"data\n\ndata\ndata\n\ndata:\n\n", ["", "\n", ""]),
        (b": keep-alive\n\ndata: a\n: between\ndata: b\n\n:\n\n", ["a\nb"]),
        (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", ["a"]),
        (b"unknown: x\ndatabase: y\ndata : z\n\ndata: a\n\n", ["a"]),
        (b"data: a\n\ndata: cut off\n", ["a"]),
        (b"\n\n\ndata: a\n\n\n", ["a"]),
        (b"data: a: b\n\n", ["a: b"]),
        (b"data: \xff\xe6\x97\n\n", ["\ufffd\ufffd"]),
        (b"", []),
    ],
)
def test_lines_and_fields_are_read_as_the_specification_says(text: bytes, expected: list[str]) -> None:
    assert data(text) == expected


def test_type_is_that_of_one_event_and_id_stays() -> None:
    events = decode([(1, b"event: error\nid: 7\ndata: a\n\ndata: b\n\nid: x\0y\nevent: lost\n\ndata: c\n\nid\ndata: d\n\n")])
    assert events == (Event(1, "a", "error", "7"), Event(1, "b", "message", "7"), Event(1, "c", "message", "7"), Event(1, "d"))


def test_comments_and_retry_are_counted_not_dispatched() -> None:
    decoder = Decoder()
    assert decoder.feed(1, b": one\nretry: 1500\nretry: soon\n: two\n\n") == []
    assert (decoder.comments, decoder.retry_ms) == (2, 1500)


def test_an_event_has_the_clock_of_the_read_that_ended_it() -> None:
    assert decode([(1, b"data: a"), (2, b"\n"), (3, b"\ndata: b\r"), (4, b"\n\r"), (5, b"\ndata: c\n\n")]) == (
        Event(3, "a"),
        Event(4, "b"),
        Event(5, "c"),
    )


def test_what_follows_the_last_event_is_known_to_be_unfinished() -> None:
    decoder = Decoder()
    decoder.feed(1, b"data: a\n\n")
    assert not decoder.unfinished
    decoder.feed(1, b"data: b\n")
    assert decoder.unfinished


SAMPLE = (
    '\ufeff: hello\r\ndata: {"a": "日本語 😀"}\r\n\r\nevent: x\rid: 1\rdata: b\rdata: c\r\r'
    "data: first\n\ndata: second\n\n: ping\n\ndata: ü\n\ndata: [DONE]\n\n"
).encode()


@pytest.mark.parametrize("cut", range(len(SAMPLE) + 1))
def test_a_cut_anywhere_changes_nothing(cut: int) -> None:
    assert [event[1:] for event in decode([(1, SAMPLE[:cut]), (2, SAMPLE[cut:])])] == [
        event[1:] for event in decode([(1, SAMPLE)])
    ]


def test_one_byte_at_a_time_changes_nothing() -> None:
    assert decode((1, SAMPLE[at : at + 1]) for at in range(len(SAMPLE))) == decode([(1, SAMPLE)])


@pytest.mark.slow
@given(
    st.lists(st.sampled_from(["data: a", "data", "data:b", ":c", "id: 1", "event: e", "", "", "é😀", "\ufeff"]), max_size=12),
    st.lists(st.sampled_from(["\n", "\r", "\r\n"]), min_size=12, max_size=12),
    st.lists(st.integers(min_value=0, max_value=200), max_size=8),
)
def test_any_stream_in_any_pieces_gives_the_same_events(lines: list[str], ends: list[str], cuts: list[int]) -> None:
    text = "".join(line + end for line, end in zip(lines, ends, strict=False)).encode()
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    assert decode((1, piece) for piece in pieces) == decode([(1, text)])


@given(st.text(alphabet=st.characters(exclude_characters="\r\n", codec="utf-8")))
def test_the_short_way_for_whole_events_says_what_the_long_way_says(text: str) -> None:
    whole = f"data: {text}\n\n".encode()
    assert decode([(1, b":\n"), (1, whole)]) == decode([(1, b":\n"), (1, whole[:-1]), (1, whole[-1:])]) == (Event(1, text),)
