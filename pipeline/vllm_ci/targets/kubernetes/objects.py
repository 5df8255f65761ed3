"""From revisions and routes to objects, and back: pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vllm_ci.config.deploy import DeploySettings
from vllm_ci.config.kubernetes import KubernetesConfig, RouteConfig
from vllm_ci.deploy.target import REVISION_HEADER, Revision, Route
from vllm_ci.domain.errors import ErroredError, UsageError
from vllm_ci.manifests import bundle, pod
from vllm_ci.manifests.app import PORT, App, Model

REVISION, ROUTE = "vllm-ci/revision", "vllm-ci/route"
DEPLOYMENT = "vllm-ci/deployment"
_REVISION, _ROUTE = TypeAdapter(Revision), TypeAdapter(Route)


def selector(deployment: str, revision: str = "") -> str:
    """Labels of the objects of a deployment, or of one revision."""
    return f"{DEPLOYMENT}={deployment}" + (f",{REVISION}={revision}" if revision else "")


def name(deployment: str, revision: str) -> str:
    """Of a revision's objects: the deployment and the hash at the end of the revision's name."""
    return f"{deployment}-{revision.rpartition('-')[2]}"


def objects(deployment: str, revision: Revision, replicas: int, settings: DeploySettings) -> list[dict[str, Any]]:
    """Everything of a revision, in the order in which it is applied.

    Raises:
        UsageError: A cluster cannot run it.
    """
    made = list(bundle.manifests(_app(deployment, revision, replicas, settings)).values())
    for each in made:
        if each["kind"] == "Deployment":
            each["metadata"]["annotations"] = {REVISION: json.dumps(asdict(revision), sort_keys=True)}
    return made


def _app(deployment: str, revision: Revision, replicas: int, settings: DeploySettings) -> App:
    serving, cluster = revision.serving, settings.kubernetes
    if revision.image.repository.partition("/")[0] == "localhost":
        raise UsageError(
            "the registry is a folder of this machine, which no cluster can pull from", remedy="set release.repository"
        )
    memory = cluster.memory or (str(serving.memory_bytes) if serving.memory_bytes else "")
    return App(
        name=name(deployment, revision.name),
        channel="",
        image=f"{revision.image.repository}@{revision.image.digest}",
        commit=revision.commit,
        model=Model(served_name=serving.model, image=cluster.model.image, claim=cluster.model.claim, name=_hub(cluster)),
        command=_command(revision, cluster),
        env=dict(serving.env),
        secrets=dict(_secret(each) for each in serving.secrets),
        secret=cluster.secret or deployment,
        replicas=replicas,
        gpus=serving.gpus if cluster.gpus is None else cluster.gpus,
        gpu_resource=cluster.gpu_resource,
        cpu=cluster.cpu,
        memory=memory,
        writable=tuple(cluster.writable),
        node_selector=dict(cluster.node_selector),
        pull_secret=cluster.pull_secret,
        runtime_class=cluster.runtime_class,
        ready_timeout_s=serving.ready_timeout_s,
        drain_s=serving.drain_s,
        network_policy=False,  # metrics are read through the API server, whose address no policy can name
        more_labels={DEPLOYMENT: deployment, REVISION: revision.name},
    )


def _hub(cluster: KubernetesConfig) -> str:
    """Not empty when the model is loaded from the hub: then pods may connect to it."""
    return "" if cluster.model.image or cluster.model.claim else "hub"


def _command(revision: Revision, cluster: KubernetesConfig) -> tuple[str, ...]:
    """The command line; a model of a volume takes the place of the one on this machine or on the hub."""
    argv = list(revision.serving.argv)
    mounted = bool(cluster.model.image or cluster.model.claim)
    if mounted and "--model" in argv[:-1]:
        argv[argv.index("--model") + 1] = pod.MODEL
    elif revision.serving.checkpoint:
        raise UsageError(
            f"the model is a folder of this machine: {revision.serving.checkpoint}",
            why="pods cannot read it",
            remedy="set deploy.kubernetes.model.image (an OCI image by digest) or deploy.kubernetes.model.claim",
        )
    filled = {"{host}": "0.0.0.0", "{port}": str(PORT), "{model}": pod.MODEL}  # noqa: S104 - inside a pod
    return tuple(_filled(each, filled) for each in argv)


def _filled(text: str, values: Mapping[str, str]) -> str:
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


def _secret(entry: str) -> tuple[str, str]:
    new, _, old = entry.partition("=")
    return new, old or new


def http_route(deployment: str, route: Route, settings: RouteConfig) -> dict[str, Any]:
    """The one route: first those with a header, then all by their weights."""
    parent = {"name": settings.gateway, **({"namespace": settings.gateway_namespace} if settings.gateway_namespace else {})}
    hosts = {"hostnames": list(settings.hostnames)} if settings.hostnames else {}
    headed = [
        _rule(deployment, {revision: 100}, headers=[{"name": REVISION_HEADER, "value": value}])
        for value, revision in sorted(route.headers.items())
    ]
    weighted = [_rule(deployment, route.weights, mirror=_mirror(deployment, route))] if route.weights else []
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": deployment,
            "labels": {DEPLOYMENT: deployment, "app.kubernetes.io/managed-by": "vllm-ci"},
            "annotations": {ROUTE: json.dumps(asdict(route), sort_keys=True)},
        },
        "spec": {"parentRefs": [parent], **hosts, "rules": [*headed, *weighted]},
    }


def _rule(
    deployment: str,
    weights: Mapping[str, int],
    *,
    headers: list[dict[str, str]] | None = None,
    mirror: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    match = {"path": {"type": "PathPrefix", "value": "/v1"}, **({"headers": headers} if headers else {})}
    backends = [{"name": name(deployment, each), "port": 80, "weight": weight} for each, weight in sorted(weights.items())]
    return {
        "matches": [match],
        **({"filters": mirror} if mirror else {}),
        "backendRefs": backends,
        "timeouts": {"request": "0s"},
    }


def _mirror(deployment: str, route: Route) -> list[dict[str, Any]]:
    if not route.mirror or not route.mirror_percent:
        return []
    copied = {"backendRef": {"name": name(deployment, route.mirror), "port": 80}, "percent": route.mirror_percent}
    return [{"type": "RequestMirror", "requestMirror": copied}]


def route_of(found: Mapping[str, Any] | None) -> Route:
    """The route in effect, as it was kept in the object.

    Raises:
        ErroredError: Somebody else made the object, or changed it.
    """
    if found is None:
        return Route()
    try:
        return _ROUTE.validate_json(found["metadata"]["annotations"][ROUTE])
    except (KeyError, TypeError, ValidationError) as error:
        raise _foreign("HTTPRoute", found) from error


def revisions_of(deployments: Iterable[Mapping[str, Any]]) -> dict[str, Revision]:
    """The revisions of Deployments, as they were kept in them.

    Raises:
        ErroredError: Somebody else made or changed one.
    """
    found = {}
    for each in deployments:
        try:
            revision = _REVISION.validate_json(each["metadata"]["annotations"][REVISION])
        except (KeyError, TypeError, ValidationError) as error:
            raise _foreign("Deployment", each) from error
        found[revision.name] = _plain(revision)
    return found


def _plain(revision: Revision) -> Revision:
    """Dictionaries and tuples as they were: equal to the revision that was kept."""
    serving = replace(revision.serving, env=dict(revision.serving.env))
    return replace(revision, serving=serving)


def _foreign(kind: str, found: Mapping[str, Any]) -> ErroredError:
    return ErroredError(
        f"{kind} {found['metadata']['name']} has the labels of this deployment and was not made by it, or was changed",
        remedy="delete it, or remove its label vllm-ci/deployment",
    )
