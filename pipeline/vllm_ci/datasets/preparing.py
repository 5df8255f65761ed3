"""Prepare: rows written with the model's own template, counted, and split so that nothing of the test set is in training."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Self

from vllm_ci.datasets import card, loading, near, splitting, template
from vllm_ci.datasets import store as stores
from vllm_ci.datasets.lines import Unusable
from vllm_ci.datasets.messages import Conversation, canonical, of_row
from vllm_ci.datasets.record import SPLITS, Collected, Dropped, Fractions, Prepared, Split, counted
from vllm_ci.datasets.splitting import By
from vllm_ci.datasets.store import Store, Version
from vllm_ci.datasets.template import ChatFormat, Text
from vllm_ci.domain.errors import FailedError, UsageError
from vllm_ci.domain.events import Emit, Progress, ignore, step

# Counts up when the same rows give another result.
FORMAT = 3
_TOLD_EVERY = 2000
# Comes after the names of rows, so that of two that are equally alike the one of this version is named.
_BEFORE = "~"


@dataclass(frozen=True, kw_only=True)
class _Options:
    fractions: Fractions
    by: By
    near: float
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """Where a row comes from and goes to."""

    file: str
    line: int
    owners: list[str]
    split: Split
    key: str
    sequences: frozenset[int]


@dataclass(kw_only=True)
class _Tally:
    dropped: list[Dropped] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    lengths: dict[Split, list[int]] = field(default_factory=lambda: {each: [] for each in SPLITS})
    scripts: Counter[str] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    preferences: int = 0


def prepare(
    collected: Collected,
    *,
    model: Path,
    into: Path,
    fractions: Fractions | None = None,
    by: By = "opening",
    near: float = 0.8,
    max_tokens: int = 2048,
    emit: Emit = ignore,
) -> Prepared:
    """Prepare collected rows for a model, as a version in the folder ``into``; the same input again changes nothing.

    Args:
        collected: What :func:`collecting.collect` returned.
        model: Folder of the model: its chat template and tokenizer are used.
        into: Folder of data sets.
        fractions: Shares of the splits; a folder of data sets keeps those of its first version.
        by: What is hashed to choose a split: the user's first message, or all messages before the answer.
        near: Similarity of questions from which they are near-duplicates, above 0, at most 1.
        max_tokens: Rows with more tokens are dropped.
        emit: Gets progress.

    Raises:
        UsageError: An option is not valid, or the model has no template or tokenizer.
        FailedError: A file of the collected data was altered, or no row is left for training.
    """
    store = Store(folder=into)
    options = _checked(_Options(fractions=fractions or Fractions(), by=by, near=near, max_tokens=max_tokens))
    with step(emit, "prepare", collected.digest[:19]) as say:
        loading.collected(collected.folder)
        chat = template.load(model)
        key = _key(collected, chat, options)
        with store.alone(".prepare.lock"):
            splitting.agree(store, options.fractions, options.by)
            version = _known(store, key) or _prepared(store, collected, chat, options, key, emit)
        made = loading.as_prepared(version)
        say(", ".join(f"{made.rows[each]} {each}" for each in SPLITS) + f" {made.digest[:19]}")
    return made


def _checked(options: _Options) -> _Options:
    if not 0 < options.near <= 1:
        raise UsageError(f"the similarity of near-duplicates is {options.near}", remedy="write a number above 0, at most 1")
    if options.max_tokens < 1:
        raise UsageError(f"max_tokens is {options.max_tokens}", remedy="write a number above 0")
    return options


def _key(collected: Collected, chat: ChatFormat, options: _Options) -> dict[str, Any]:
    return {
        "step": "prepare",
        "format": FORMAT,
        "collected": collected.digest,
        "template": chat.digest,
        "fractions": vars(options.fractions),
        "by": options.by,
        "near": options.near,
        "max_tokens": options.max_tokens,
    }


def _known(store: Store, key: Mapping[str, Any]) -> Version | None:
    """The result of the same input, unless rows were put into a test set since: they, or their like, may be in its training."""
    note = store.remembered(key)
    if note is None or not (folder := store.folder / "prepared" / note["version"]).is_dir():
        return None
    return stores.load(folder) if note.get("held") == splitting.held_digest(store) else None


def _prepared(
    store: Store, collected: Collected, chat: ChatFormat, options: _Options, key: Mapping[str, Any], emit: Emit
) -> Version:
    with store.writing() as folder:
        before = stores.load(collected.folder)  # a request for deletion may have come in the meantime
        tally = _Tally()
        placed = _place(store, collected, options, tally)
        _drop_near(placed, _tested_before(store, placed), options, tally)
        with _Writers(folder) as out:
            for number, row in enumerate(stores.rows(collected.folder / "rows.jsonl"), 1):
                if number % _TOLD_EVERY == 0:
                    emit(Progress(step="prepare", detail=f"{number} of {collected.rows} rows"))
                if row["id"] in placed:
                    _write(row, placed[row["id"]], chat, options, tally, out)
        _require_rows(collected, tally)
        _write_dropped(folder / "dropped.jsonl", collected, tally)
        facts = _facts(collected, chat, options, tally)
        card.write(folder, facts, before.facts)
        # Before the version is there: should this end here, rows are held out that need not be.
        tested = (each.key for each in placed.values() if each.split == "test")
        splitting.hold_out(store, tested, options.fractions, options.by)
        made = store.finish("prepared", folder, facts)
    store.remember(key, {"version": made.folder.name, "held": splitting.held_digest(store)})
    return made


def _place(store: Store, collected: Collected, options: _Options, tally: _Tally) -> dict[str, _Placed]:
    """The split of each row: the one that its source declares, the test set if it ever was there, else by its hash."""
    held = splitting.held_out(store)
    index = list(stores.rows(collected.folder / "index.jsonl"))
    conversations = (of_row(row) for row in stores.rows(collected.folder / "rows.jsonl"))
    asked = [(splitting.key(each, options.by), near.sequences(splitting.question(each))) for each in conversations]
    declared = _declared((key, row["split"]) for (key, _), row in zip(asked, index, strict=True))
    made = {}
    for (key, sequences), row in zip(asked, index, strict=True):
        split: Split = "test" if key in held else declared.get(key) or splitting.split(key, options.fractions)
        if row["split"] not in (split, None) or (row["split"] is None and split == declared.get(key) != "train"):
            detail = f"its question is in the {split} set"
            tally.dropped.append(Dropped(file=row["file"], line=row["line"], reason="leaked", detail=detail))
            continue
        made[row["id"]] = _Placed(
            file=row["file"], line=row["line"], owners=row["owners"], split=split, key=key, sequences=sequences
        )
    return made


def _declared(rows: Iterable[tuple[str, Split | None]]) -> dict[str, Split]:
    """The split that sources declare for a key; of several, the one that must stay unseen."""
    made: dict[str, Split] = {}
    for key, split in rows:
        if split is not None:
            made[key] = max(split, made.get(key, split), key=SPLITS.index)
    return made


def _tested_before(store: Store, placed: Mapping[str, _Placed]) -> dict[str, _Placed]:
    """Rows of earlier test sets that are not in the one of this data: a model may still be tested with them."""
    made: dict[str, _Placed] = {}
    tested = {name for name, each in placed.items() if each.split == "test"}
    for folder in store.versions("prepared"):
        version = stores.load(folder)
        rows = {f"{_BEFORE}{row['id']}": row for row in stores.rows(folder / "test.jsonl") if row["id"] not in tested}
        index = ((f"{_BEFORE}{each['id']}", each) for each in stores.rows(folder / "index.jsonl"))
        for name, each in index:
            if name in rows and name not in made:
                made[name] = _Placed(
                    file=f"{version.digest[:19]}, {each['file']}",
                    line=each["line"],
                    owners=[],
                    split="test",
                    key=each["key"],
                    sequences=near.sequences(splitting.question(of_row(rows[name]))),
                )
    return made


def _drop_near(placed: dict[str, _Placed], before: Mapping[str, _Placed], options: _Options, tally: _Tally) -> None:
    """Drop rows that are almost a row of a split that must stay unseen: the test set stays whole."""
    for held, others in (("test", ("train", "validation")), ("validation", ("train",))):
        unseen = {name: each for name, each in {**placed, **before}.items() if each.split == held}
        index = near.Index({name: each.sequences for name, each in unseen.items()}, options.near)
        for name, row in list(placed.items()):
            if row.split in others and (found := index.nearest(row.sequences)):
                other, value = unseen[found[0]], found[1]
                detail = f"{value:.0%} the same as a row of the {held} set: {other.file}:{other.line}"
                tally.dropped.append(Dropped(file=row.file, line=row.line, reason="near-duplicate", detail=detail))
                del placed[name]


class _Writers:
    """The files of a version, open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, BinaryIO] = {}

    def __enter__(self) -> Self:
        self._open = {name: (self._folder / f"{name}.jsonl").open("wb") for name in (*SPLITS, "index")}
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._open.values():
            each.close()

    def write(self, name: str, row: Mapping[str, Any]) -> None:
        self._open[name].write(canonical(row) + b"\n")


def _write(row: dict[str, Any], placed: _Placed, chat: ChatFormat, options: _Options, tally: _Tally, out: _Writers) -> None:
    try:
        conversation = of_row(row)
        at = datetime.fromisoformat(row["time"]) if row["time"] else None
        text, rejected = _texts(conversation, at, chat, options)
    except Unusable as error:
        tally.dropped.append(Dropped(file=placed.file, line=placed.line, reason=error.reason, detail=error.detail))
        return
    worse = {"rejected_completion": rejected} if rejected else {}
    made = {"id": row["id"], **conversation.to_json(), **vars(text), **worse}
    out.write(placed.split, made)
    known = {"id": row["id"], "file": placed.file, "line": placed.line, "split": placed.split, "key": placed.key}
    out.write("index", {**known, "owners": placed.owners})
    _count(conversation, text, placed.split, tally)


def _texts(conversation: Conversation, at: datetime | None, chat: ChatFormat, options: _Options) -> tuple[Text, str]:
    text = chat.text(conversation, at)
    rejected = ""
    if conversation.rejected is not None:
        worse = chat.text(replace(conversation, messages=(*conversation.messages[:-1], conversation.rejected)), at)
        if worse.prompt != text.prompt or worse.completion == text.completion:
            raise Unusable(
                reason="bad-preference", detail="the chosen and the rejected answer are the same, or have two prompts"
            )
        rejected = worse.completion
        text = replace(text, tokens=max(text.tokens, worse.tokens))
    if text.tokens > options.max_tokens:
        raise Unusable(reason="too-many-tokens", detail=f"{text.tokens} tokens, more than {options.max_tokens}")
    return text, rejected


def _count(conversation: Conversation, text: Text, split: Split, tally: _Tally) -> None:
    tally.rows[split] += 1
    tally.tokens[split] += text.tokens
    tally.lengths[split].append(text.tokens)
    tally.scripts.update(card.scripts(each["content"] for each in conversation.messages))
    tally.turns[sum(each["role"] == "assistant" for each in conversation.messages)] += 1
    tally.preferences += conversation.rejected is not None


def _facts(collected: Collected, chat: ChatFormat, options: _Options, tally: _Tally) -> dict[str, Any]:
    return {
        "collected": collected.digest,
        "template": chat.digest,
        "fractions": vars(options.fractions),
        "by": options.by,
        "near": options.near,
        "max_tokens": options.max_tokens,
        "rows": {each: tally.rows[each] for each in SPLITS},
        "tokens": {each: tally.tokens[each] for each in SPLITS},
        "dropped": counted(tally.dropped),
        "lengths": {each: card.distribution(tally.lengths[each]) for each in SPLITS},
        "scripts": dict(sorted(tally.scripts.items())),
        "turns": {str(each): tally.turns[each] for each in sorted(tally.turns)},
        "preferences": tally.preferences,
    }


def _write_dropped(path: Path, collected: Collected, tally: _Tally) -> None:
    """The rows that either step dropped."""
    before = ({"step": "collect", **each} for each in stores.rows(collected.folder / "dropped.jsonl"))
    ours = ({"step": "prepare", **each.to_json()} for each in tally.dropped)
    with path.open("wb") as file:
        file.writelines(canonical(each) + b"\n" for each in itertools.chain(before, ours))


def _require_rows(collected: Collected, tally: _Tally) -> None:
    if tally.rows["train"]:
        return
    first = "; ".join(str(each) for each in tally.dropped[:3])
    raise FailedError(
        f"no row is left for training of {collected.rows}",
        why=f"{len(tally.dropped)} dropped, for example {first}" if first else f"{dict(tally.rows)}: all questions open alike",
        remedy="collect more rows; see the reasons above" if first else 'split by the whole prompt (by="prompt", --by prompt)',
    )
