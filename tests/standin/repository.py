"""A user's repository in a few files, committed."""

from __future__ import annotations

import subprocess
from pathlib import Path

_IDENTITY = ("-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")


def repository(folder: Path, pipeline: str = "", *, config: str = "version: 1\nname: mine\n", **files: str) -> Path:
    """Write ``vllm-ci.yaml``, ``ci/pipeline.py`` if there is one, and ``files`` (``a__b`` is ``a/b.py``), and commit them."""
    contents = {"vllm-ci.yaml": config, **{f"{name.replace('__', '/')}.py": text for name, text in files.items()}}
    if pipeline:
        contents["ci/pipeline.py"] = pipeline
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    for words in (("init", "--quiet", "--initial-branch=main"), ("add", "."), ("commit", "--quiet", "--message", "start")):
        subprocess.run(["git", *_IDENTITY, *words], cwd=folder, check=True, capture_output=True)
    return folder


def commit(folder: Path, message: str) -> str:
    """Commit all files; the commit's id."""
    for words in (("add", "."), ("commit", "--quiet", "--allow-empty", "--message", message)):
        subprocess.run(["git", *_IDENTITY, *words], cwd=folder, check=True, capture_output=True)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def dirty(folder: Path) -> str:
    """What git sees as changed or new."""
    done = subprocess.run(["git", "status", "--porcelain"], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout
