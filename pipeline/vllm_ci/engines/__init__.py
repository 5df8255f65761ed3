"""Engines by name. Only the unnamed choice (``auto``) may choose; a named engine never falls back to another."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from vllm_ci.domain.errors import UsageError
from vllm_ci.engine import Engine

# Name -> a function of the port (0: any) that opens the engine as an asynchronous context.
ENGINES = {
    "host": "vllm_ci.engines.host:HostEngine",
    "dagger": "vllm_ci.engines.dagger:DaggerEngine",
    "memory": "vllm_ci.engines.memory:MemoryEngine",
}


def choose(name: str) -> tuple[str, str]:
    """The engine's name and why it is that one.

    Order: the one that was named; processes on Linux, where an image's files can be run as they are; containers elsewhere.

    Raises:
        UsageError: There is no engine of that name.
    """
    if name in ENGINES:
        return name, "it was asked for by name"
    if name != "auto":
        raise UsageError(f"there is no engine {name}", remedy=f"choose one of auto, {', '.join(ENGINES)}")
    if sys.platform == "linux":
        return "host", "images of this platform run here as processes; no container engine is needed"
    return "dagger", f"images are made for Linux, this is {sys.platform}: they need containers"


def open_engine(name: str, *, port: int = 0) -> AbstractAsyncContextManager[Engine]:
    """The engine ``name`` (not ``auto``), with the port that its services shall listen on."""
    module, _, attribute = ENGINES[name].partition(":")
    opener: Callable[..., AbstractAsyncContextManager[Engine]] = getattr(importlib.import_module(module), attribute)
    return opener(port=port)
