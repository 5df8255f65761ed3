"""Locks, links and the clean-up of the environments in .tools; called by bootstrap.sh. Standard library, Python 3.11 or newer.

hold shared|exclusive FD  lock the open file FD; the lock belongs to the file as opened, so the caller has it as well
use NAME FOLDER           lead .tools/NAME to .tools/envs/FOLDER, and remove environments that nobody has used for a day
key LOCK WORD...          a name for what the lock file LOCK and the words say
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import time
from pathlib import Path

ALL = Path(".tools/envs")
UNUSED_S = 24 * 3600


def hold(how: str, descriptor: str) -> None:
    """Wait for the lock, and say so when it takes a while."""
    wanted = fcntl.LOCK_SH if how == "shared" else fcntl.LOCK_EX
    try:
        fcntl.flock(int(descriptor), wanted | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stderr.write("vllm-ci: waiting for another call that makes the same environment\n")
        fcntl.flock(int(descriptor), wanted)


def use(name: str, folder: str) -> None:
    """Make the link in one step, so that at every moment it leads to a whole environment."""
    os.utime(ALL / folder)
    link, target = Path(".tools", name), f"envs/{folder}"
    if not link.is_symlink() or str(link.readlink()) != target:
        if link.is_dir() and not link.is_symlink():
            # Made by an older version: somebody may be running it.
            aside = ALL / f"{name}-before.{os.getpid()}"
            link.rename(aside)
            os.utime(aside)
        part = Path(".tools", f"{name}.link.{os.getpid()}")
        part.symlink_to(target)
        part.replace(link)
    clean()


def clean() -> None:
    """Remove environments, and what killed makers left, that no link leads to, that are a day old and whose lock is free."""
    linked = {link.readlink().name for link in Path(".tools").iterdir() if link.is_symlink()}
    for folder in ALL.iterdir():
        if folder.name in linked or folder.suffix == ".lock" or not folder.is_dir():
            continue
        try:
            if time.time() - folder.stat().st_mtime < UNUSED_S:
                continue
            with (ALL / f"{folder.name.partition('.')[0]}.lock").open("a", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # somebody uses it, or removes it right now
            continue


def key(lock: str, *words: str) -> None:
    """Sixteen hexadecimal digits of a hash. The file is read here: a lock may be longer than an argument (128 KiB on Linux)."""
    content = Path(lock).read_bytes()
    sys.stdout.write(hashlib.sha256("\0".join(words).encode() + b"\0" + content).hexdigest()[:16] + "\n")


if __name__ == "__main__":
    {"hold": hold, "use": use, "key": key}[sys.argv[1]](*sys.argv[2:])
