"""Rows of training data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TEXT = """
printer network invoice login screen reset delayed shipment broken refund blue upgrade license crash battery
slow video account keyboard mouse cable desk phone server backup window folder update charger tablet router
switch paper toner badge door
"""
WORDS = _TEXT.split()

Write = Callable[..., Path]


def chat(question: str, answer: str = "fine", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def ticket(number: int) -> dict[str, Any]:
    """A row unlike all others: its words are chosen by its number."""
    chosen = [WORDS[(number * 7 + place * (number % 11 + 3)) % len(WORDS)] for place in range(12)]
    return chat(f"ticket {number} " + " ".join(chosen), f"priority {number % 3}")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]
