"""A toy tokenizer: markers of turns, single bytes and some words. What users write is never a marker."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence

MARKERS = ("<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|developer|>", "<|pad|>")
BEGIN, END = 0, 1
_FIRST_BYTE = len(MARKERS)
_STARTS = ("hello", "the", "Tell", "Question", "what", "ing", "er", "ion", "st", "th")
_FOLLOWS = (
    *("hello", "world", "the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "me", "a", "story", "about", "and"),
    *("number", "is", "of", "what", "your", "name", "secret", "in", "weather", "word", "one", "two", "three"),
)
_WORDS = (*_STARTS, *(f" {word}" for word in _FOLLOWS))
_FIRST_WORD = _FIRST_BYTE + 256
VOCABULARY = _FIRST_WORD + len(_WORDS)
_IDS = {word: _FIRST_WORD + number for number, word in enumerate(_WORDS)}
_PIECES = re.compile("(" + "|".join(re.escape(word) for word in sorted(_WORDS, key=len, reverse=True)) + ")")
_MARKED = re.compile("(" + "|".join(re.escape(marker) for marker in MARKERS) + ")")


def encode(text: str, *, markers: bool = False) -> list[int]:
    """Token ids of a text; with ``markers`` its markers are read as such, which is right for templates only.

    Raises:
        UnicodeEncodeError: The text holds half a surrogate pair.
    """
    if markers:
        parts = _MARKED.split(text)
        return [token for part in parts for token in ([MARKERS.index(part)] if part in MARKERS else encode(part))]
    ids: list[int] = []
    for number, part in enumerate(_PIECES.split(text)):
        ids.extend([_IDS[part]] if number % 2 else [_FIRST_BYTE + byte for byte in part.encode()])
    return ids


def raw(token: int) -> bytes:
    """Bytes of a token; a marker has none."""
    if token < _FIRST_BYTE:
        return b""
    return bytes([token - _FIRST_BYTE]) if token < _FIRST_WORD else _WORDS[token - _FIRST_WORD].encode()


def decode(ids: Iterable[int], *, markers: bool = False) -> str:
    """Text of token ids; bytes that are no UTF-8 become replacement characters."""
    parts = [MARKERS[token].encode() if markers and token < _FIRST_BYTE else raw(token) for token in ids]
    return b"".join(parts).decode("utf-8", errors="replace")


class Decoder:
    """Text token by token: a character appears when its last byte has come."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int, *, last: bool = False) -> str:
        """What can be said now that this token has come."""
        return self._decoder.decode(raw(token), final=last)


def render(messages: Sequence[dict[str, str]], *, preface: str = "") -> list[int]:
    """The chat template: a marker for each role, what was said, a line break, and the assistant's marker to go on from."""
    ids = [BEGIN]
    if preface:
        ids += [MARKERS.index("<|system|>"), *encode(preface + "\n")]
    for message in messages:
        ids += [MARKERS.index(f"<|{message['role']}|>"), *encode(message["content"] + "\n")]
    return [*ids, MARKERS.index("<|assistant|>")]
