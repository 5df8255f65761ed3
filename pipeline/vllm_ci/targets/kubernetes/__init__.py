"""Target ``kubernetes``: a Deployment and a Service for each revision, and one HTTPRoute that shares requests.

Everything is kept in the cluster, in the objects' labels and annotations: any machine with access sees the same deployment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vllm_ci.targets.kubernetes.cluster import connected
from vllm_ci.targets.kubernetes.target import KubernetesTarget
from vllm_ci.targets.opening import Opening


@asynccontextmanager
async def open_kubernetes(opening: Opening) -> AsyncIterator[KubernetesTarget]:
    """The deployment in the cluster of the current context; leaving it stops nothing.

    Raises:
        UsageError: The client is not installed, or no cluster is configured.
        ErroredError: The cluster cannot be reached.
    """
    settings = opening.settings.kubernetes
    cluster = await connected(settings.context, settings.namespace, cache=opening.state / "target" / "discovery.json")
    try:
        yield KubernetesTarget(cluster, opening.deployment, opening.settings)
    finally:
        await cluster.close()
