"""Which split a row belongs to: decided by its content, so that it is the same in every version of the data.

The hash covers how the conversation opens, not the answers: conversations that grow, and several answers to one question, stay
together. Rows that were ever in a test set stay there (``held-out.txt``).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from vllm_ci.datasets import store as stores
from vllm_ci.datasets.messages import Conversation
from vllm_ci.datasets.record import Fractions, Split
from vllm_ci.datasets.store import Store
from vllm_ci.domain.errors import UsageError

By = Literal["opening", "prompt"]
# Scripts without spaces count by letter.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|\w+")


def words(text: str) -> tuple[str, ...]:
    """Words in small letters, without punctuation; a letter and its accent are one, however the text writes them."""
    return tuple(_WORD.findall(unicodedata.normalize("NFC", text).casefold()))


def question(conversation: Conversation, by: By = "prompt") -> str:
    """What is asked: the first message of the user, or all messages before the last answer; never the system's."""
    asked = [each for each in conversation.messages[:-1] if each["role"] != "system"]
    if by == "opening":
        asked = [each for each in asked if each["role"] == "user"][:1]
    return "\n".join(each["content"] for each in asked)


def key(conversation: Conversation, by: By) -> str:
    """The hash that decides: 32 hexadecimal digits; the same whatever the case, spaces, punctuation and form of accents."""
    text = question(conversation, by)
    return hashlib.sha256("\n".join(words(text) or (text,)).encode()).hexdigest()[:32]


def split(hashed: str, fractions: Fractions) -> Split:
    """The split of a key: the test set has the lowest hashes, then comes validation."""
    place = int(hashed[:15], 16) / 16**15
    if place < fractions.test:
        return "test"
    return "validation" if place < fractions.test + fractions.validation else "train"


def agree(store: Store, fractions: Fractions, by: By) -> None:
    """A folder of data sets has one rule of splitting; another one would move rows of the test set into training.

    Raises:
        UsageError: It has another one.
    """
    path, wanted = _rule(store), {**vars(fractions), "by": by}
    if path.is_file() and (found := json.loads(path.read_bytes())) != wanted:
        raise UsageError(
            f"{store.folder} splits rows in another way: {_shown(found)}, not {_shown(wanted)}",
            why="rows would move between training and test, and earlier models have seen them",
            remedy="keep the fractions, or use another folder",
        )


def held_out(store: Store) -> frozenset[str]:
    """Keys of all rows that were ever in a test set."""
    path = _place(store)
    return frozenset(path.read_text(encoding="ascii").split()) if path.is_file() else frozenset()


def held_digest(store: Store) -> str:
    """Digest of the keys of all rows that were ever in a test set."""
    return hashlib.sha256("\n".join(sorted(held_out(store))).encode()).hexdigest()


def hold_out(store: Store, keys: Iterable[str], fractions: Fractions, by: By) -> None:
    """Add keys of a test set; the folder keeps the rule that made it."""
    if not _rule(store).is_file():
        stores.write(_rule(store), json.dumps({**vars(fractions), "by": by}, sort_keys=True).encode() + b"\n")
    before = held_out(store)
    if after := set(keys) - before:
        stores.write(_place(store), ("\n".join(sorted(before | after)) + "\n").encode())


def _place(store: Store) -> Path:
    return store.folder / "held-out.txt"


def _rule(store: Store) -> Path:
    return store.folder / "splits.json"


def _shown(rule: dict[str, object]) -> str:
    return "/".join(f"{rule.get(name)}" for name in ("train", "validation", "test")) + f" by {rule.get('by')}"
