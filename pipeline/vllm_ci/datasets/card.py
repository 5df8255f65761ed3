"""The data card: what is in a data set, in numbers, as JSON and as Markdown. It holds no text of a row."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vllm_ci.datasets.record import SPLITS

_SHARES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
_LOOKED_AT = 4096


def distribution(lengths: Sequence[int]) -> dict[str, int]:
    """Least, median, 90th and 99th percentile and most of some numbers; empty if there are none."""
    ordered = sorted(lengths)
    if not ordered:
        return {}
    shares = {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in _SHARES}
    return {"min": ordered[0], **shares, "max": ordered[-1]}


def scripts(texts: Iterable[str]) -> set[str]:
    """Scripts of the letters of some texts, as Unicode names them: ``LATIN``, ``CYRILLIC``, ``CJK``."""
    letters = {letter for text in texts for letter in text[:_LOOKED_AT]}
    return {found for letter in letters if (found := script(letter))}


@cache
def script(letter: str) -> str:
    """Script of a letter; empty for other characters."""
    return unicodedata.name(letter, "").split(" ")[0].split("-")[0] if letter.isalpha() else ""


def write(folder: Path, facts: Mapping[str, Any], collected: Mapping[str, Any]) -> None:
    """Write ``card.json`` and ``card.md``.

    Args:
        folder: Folder of the version.
        facts: Facts of the prepared data.
        collected: Facts of the collected data that it is made from.
    """
    made = {"prepared": dict(facts), "collected": dict(collected)}
    text = json.dumps(made, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / "card.json").write_text(text, encoding="utf-8")
    (folder / "card.md").write_text(markdown(made), encoding="utf-8")


def markdown(made: Mapping[str, Any]) -> str:
    """The card for readers."""
    prepared, collected = made["prepared"], made["collected"]
    return "\n".join(
        [
            "# Data card",
            "",
            f"Collected data: `{prepared['collected']}`. Chat template and tokenizer: `{prepared['template']}`.",
            "",
            *_splits(prepared),
            "",
            "## Sources",
            "",
            *_table(
                ("file", "split", "digest"),
                [(_cell(s["file"]), s["split"] or "by content", s["digest"][:19]) for s in collected["sources"]],
            ),
            "",
            "## Dropped rows",
            "",
            *_table(
                ("step", "reason", "rows"),
                [
                    (name, reason, str(count))
                    for name, facts in (("collect", collected), ("prepare", prepared))
                    for reason, count in facts["dropped"].items()
                ],
            ),
            "",
            "Each one is in `dropped.jsonl` with its file and line.",
            "",
            "## Masked",
            "",
            *_table(("kind", "places"), [(kind, str(count)) for kind, count in collected["masked"].items()]),
            "",
            "## Content",
            "",
            f"Scripts (rows): {_counts(prepared['scripts'])}. Answers in a row (rows): {_counts(prepared['turns'])}.",
            f"Rows with a rejected answer: {prepared['preferences']}. Rows without a time: {collected['undated']}.",
            "",
        ]
    )


def _splits(facts: Mapping[str, Any]) -> list[str]:
    names = ("min", "p50", "p90", "p99", "max")
    cells = [
        (
            each,
            str(facts["rows"][each]),
            str(facts["tokens"][each]),
            *(str(facts["lengths"][each].get(name, "")) for name in names),
        )
        for each in SPLITS
    ]
    return _table(("split", "rows", "tokens", *(f"tokens of a row, {name}" for name in names)), cells)


def _table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    if not cells:
        return ["None."]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
