"""Live progress for commands that often have none: the display is loaded when the first step begins."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from vllm_ci.domain.events import Emit, Event


@contextmanager
def watch() -> Iterator[Emit]:
    """Show the steps of a command on standard error, like ``vllm-ci run``, for the duration of the context."""
    lock = threading.Lock()
    display: list[Emit] = []
    with ExitStack() as stack:

        def emit(event: Event) -> None:
            with lock:
                if not display:
                    from vllm_ci.cli import progress  # slow to load compared with an unchanged build

                    display.append(stack.enter_context(progress.watch(progress.console())))
                display[0](event)

        yield emit
