"""Names of files and resources that the parts of the configuration share, and how Envoy is told to watch a file.

Everything that changes while Envoy serves lies in files of its own. A changed file is written beside and renamed over the old
one; Envoy sees that, takes the new content as a whole or not at all, and open requests stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

LISTENERS = "listeners.json"
CLUSTERS = "clusters.json"
ROUTES = "routes.json"
SHADOW_ROUTES = "shadow.json"
AUTHENTICATION = "authentication.json"
CERTIFICATE = "certificate.json"
ADMIN_SOCKET = "admin.sock"
ACCESS_LOG = "access.log"
ROUTE_NAME = "gateway"

CLUSTER_PREFIX = "revision/"

_TYPES = "type.googleapis.com/envoy."

Json = dict[str, Any]


def typed(name: str, content: Mapping[str, Any] | None = None) -> Json:
    """A message with its type (``extensions.filters.http.router.v3.Router``)."""
    return {"@type": f"{_TYPES}{name}", **(content or {})}


def endpoints_file(revision: str) -> str:
    """File with the endpoints of a revision."""
    return f"endpoints-{revision}.json"


def cluster_name(revision: str) -> str:
    """Name of the cluster that has a revision's replicas."""
    return CLUSTER_PREFIX + revision


def watched(file: str) -> Json:
    """Source of configuration: a file in Envoy's working directory, read again when it is renamed over."""
    return {"path_config_source": {"path": file, "watched_directory": {"path": "."}}, "resource_api_version": "V3"}


def response(version: str, resources: Iterable[Json]) -> Json:
    """Content of such a file."""
    return {"version_info": version, "resources": list(resources)}
