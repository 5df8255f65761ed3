"""Writes made-up messages to a help desk, each with its ticket: 400 to train on, 40 to watch the loss, 100 to test with.

Usage: ``python make_data.py data``. The same seed writes the same files; no message is in two of them.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

SEED = 20
SIZES = {"train": 400, "validation": 40, "test": 100}
THINGS = {
    "printer": ("the printer", "our printer", "the big printer"),
    "network": ("the wifi", "the network", "the internet connection"),
    "laptop": ("my laptop", "the new laptop", "my notebook"),
    "email": ("my mailbox", "the mail program", "e-mail"),
    "phone": ("the phone", "my desk phone", "the telephone"),
}
TROUBLES = ("does not work", "is very slow", "stopped this morning", "shows an error", "keeps failing", "is broken again")
PRIORITIES = {
    "high": ("Please help right away.", "This is urgent!", "I cannot work until it is fixed."),
    "low": ("There is no hurry.", "Whenever you have time.", "It can wait until next week."),
    "normal": ("Could you have a look?", "Please help.", "Can somebody check it?"),
}
GREETINGS = ("Hello,", "Hi team,", "Good morning,", "Dear help desk,", "Hi,")


def rows(draw: random.Random) -> Iterator[dict[str, object]]:
    """Endless rows; the ticket follows from what the message says."""
    while True:
        kind, priority, room = draw.choice(sorted(THINGS)), draw.choice(sorted(PRIORITIES)), draw.randrange(100, 400)
        place = draw.choice((f"in room {room}", f"(room {room})", f"here in {room}"))
        what = f"{draw.choice(THINGS[kind])} {place} {draw.choice(TROUBLES)}."
        asked = f"{draw.choice(GREETINGS)} {what} {draw.choice(PRIORITIES[priority])}"
        ticket = f"TICKET {kind} | room {room} | {priority}"
        yield {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": ticket}]}


def main(folder: Path) -> None:
    """Write the files."""
    folder.mkdir(parents=True, exist_ok=True)
    source, seen = rows(random.Random(SEED)), set()
    for name, size in SIZES.items():
        lines: list[str] = []
        while len(lines) < size:
            line = json.dumps(next(source))
            if line not in seen:
                seen.add(line)
                lines.append(line)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
