"""Requests that come late to a revision: they chose it before the route changed, and their bodies were still on their way."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace

import anyio

from vllm_ci.targets.local import telling
from vllm_ci.targets.local.configuration import Configuration
from vllm_ci.targets.local.state import State, Store

SEEN_S = 15.0
"""How long the gateway gets to know a server that is ready."""
SETTLE_S = 0.05
"""What Envoy's main thread knows, its workers know in their next turn."""
# They come at most after Envoy's limit for a whole request (120 s). Their cluster leads to the current revision for so long.
_LATE_S = 130.0


async def led(state: State, revision: str, store: Store, configuration: Configuration) -> State:
    """Lead requests that are late to the revision that has the most of them now, before the replicas end; with the lock.

    Those replicas get requests until the gateway knows that the others are well: somebody can answer at any moment.

    Raises:
        ErroredError: The disk is full, or the gateway cannot be reached.
    """
    now = time.time()
    others = {name: at for name, at in state.retired.items() if now - at < _LATE_S}
    state = replace(state, retired={**others, revision: now})
    store.save(state)
    await configuration.shape(state)
    weights = configuration.route().weights
    if main := max(weights, key=lambda name: weights[name], default=""):
        ports = telling.ready_ports(state, main)
        with anyio.move_on_after(SEEN_S if ports else 0):
            while not ports & telling.healthy((await configuration.admin.hosts()).get(revision, {})):
                await anyio.sleep(0.02)
    replicas = {name: replace(kept, phase="draining") for name, kept in state.of(revision).items()}
    state = replace(state, replicas={**state.replicas, **replicas})
    store.save(state)
    await configuration.shape(state)
    await anyio.sleep(SETTLE_S)
    return state


def answered(state: State, revisions: Collection[str]) -> State:
    """The state with revisions that answer late requests themselves again."""
    return replace(state, retired={name: at for name, at in state.retired.items() if name not in revisions})
