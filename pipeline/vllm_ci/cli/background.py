"""Starts commands that look after a channel in the background, and outlive the command that starts them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_ci.domain.errors import EngineError, ErroredError

if TYPE_CHECKING:
    from vllm_ci.cli.deploying import Channel


def mark(where: Channel, name: str) -> str:
    """What marks the process of this name in its environment."""
    return f"{where.place.folder}/{name}"


def start(where: Channel, name: str, verb: str, *, what: str, why: str, remedy: str) -> None:
    """Start ``vllm-ci deploy VERB CHANNEL``; its output goes to ``NAME.log`` in the folder of the deployment.

    Args:
        where: The channel.
        name: Name of the process.
        verb: Its command.
        what: What it does, for the error.
        why: What goes on without it.
        remedy: What to do without it.

    Raises:
        ErroredError: It cannot be started.
    """
    from vllm_ci.engines import detached

    path = where.found.loaded.path.absolute()
    # -P: the current directory is that of a project, whose modules are not ours
    argv = [sys.executable, "-P", "-m", "vllm_ci", "deploy", verb, where.name, "--config", str(path)]
    log = where.place.folder / f"{name}.log"
    try:
        log.unlink(missing_ok=True)
        detached.start(argv, env=os.environ, cwd=Path.cwd(), log=log, mark=mark(where, name))
    except (OSError, EngineError) as error:
        raise ErroredError(f"the process that {what} cannot be started: {error}", why=why, remedy=remedy) from error
