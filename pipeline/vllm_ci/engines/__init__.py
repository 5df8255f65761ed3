"""Engines by name. Only ``auto`` selects an engine; a named engine never falls back to another."""

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
    """The name of the engine to use, and the reason.

    Order: the named engine; on Linux the host engine, which runs an image's files as processes; elsewhere containers.

    Raises:
        UsageError: There is no engine of that name.
    """
    if name in ENGINES:
        return name, "selected by name"
    if name != "auto":
        raise UsageError(f"unknown engine: {name}", remedy=f"choose one of auto, {', '.join(ENGINES)}")
    if sys.platform == "linux":
        return "host", "on Linux, images run as processes without a container engine"
    return "dagger", f"images are built for Linux and need containers on {sys.platform}"


def open_engine(name: str, *, port: int = 0) -> AbstractAsyncContextManager[Engine]:
    """Open the engine ``name`` (not ``auto``); its services listen on ``port`` (0: any free port)."""
    module, _, attribute = ENGINES[name].partition(":")
    opener: Callable[..., AbstractAsyncContextManager[Engine]] = getattr(importlib.import_module(module), attribute)
    return opener(port=port)
