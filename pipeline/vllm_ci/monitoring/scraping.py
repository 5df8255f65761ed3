"""Servers of a channel as Prometheus takes them from a file (``file_sd_configs``): their ports change with each deployment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from vllm_ci.deploy.target import Replica


def targets(replicas: Iterable[Replica], labels: Mapping[str, str], *, gateway: str = "") -> list[dict[str, Any]]:
    """Groups of targets, one for each revision.

    Args:
        replicas: Of the deployment; those that do not listen yet are left out.
        labels: Of the channel's series.
        gateway: Host and port of the gateway's metrics; empty: not scraped.
    """
    found: dict[str, list[str]] = {}
    for each in replicas:
        if each.url and each.state != "failed":
            found.setdefault(each.revision, []).append(urlsplit(each.url).netloc)
    groups = [{"targets": sorted(hosts), "labels": {**labels, "revision": name}} for name, hosts in sorted(found.items())]
    return [*groups, {"targets": [gateway], "labels": dict(labels)}] if gateway else groups
