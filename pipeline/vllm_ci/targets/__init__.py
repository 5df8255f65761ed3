"""Targets by name. No target falls back to another."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from vllm_ci.deploy.target import Target
from vllm_ci.domain.errors import UsageError

if TYPE_CHECKING:
    from vllm_ci.targets.opening import Opening

# Name -> a function from an Opening that opens the target as an asynchronous context.
TARGETS = {
    "kubernetes": "vllm_ci.targets.kubernetes:open_kubernetes",
    "local": "vllm_ci.targets.local:open_local",
    "memory": "vllm_ci.targets.memory:open_memory",
}


def open_target(name: str, opening: Opening) -> AbstractAsyncContextManager[Target]:
    """Open the target ``name`` for one deployment.

    Raises:
        UsageError: There is no target of that name.
    """
    if name not in TARGETS:
        raise UsageError(f"unknown target: {name}", remedy=f"choose one of {', '.join(TARGETS)}")
    module, _, attribute = TARGETS[name].partition(":")
    opener: Callable[[Opening], AbstractAsyncContextManager[Target]] = getattr(importlib.import_module(module), attribute)
    return opener(opening)
