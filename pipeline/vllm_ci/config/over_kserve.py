"""What does not go together with ``deploy.kubernetes.kserve``: what KServe does otherwise, or not at all, refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vllm_ci.config import over_cluster
from vllm_ci.config.refused import Refused, together
from vllm_ci.domain.errors import ConfigError

if TYPE_CHECKING:
    from vllm_ci.config.deploy import DeploySettings
    from vllm_ci.manifests.app import Model

LONGEST = 43
"""Of a name: KServe adds ``-kserve-workload-svc``, and replaces by a hash what is longer than 63 characters."""
_PART = "[A-Za-z0-9][A-Za-z0-9._~:@-]*"
_SERVED_NAME = re.compile(rf"{_PART}(/{_PART})*")
_CLUSTER = ("deploy", "kubernetes")


def refused(settings: DeploySettings) -> Iterator[Refused]:
    """All settings of a channel that KServe cannot carry out; none where another system runs the channel.

    Args:
        settings: Of the channel; where its target is another one, only what is in ``kubernetes`` is looked at.
    """
    if settings.kubernetes.kserve is None:
        return
    yield from _in_cluster(settings)
    if settings.target == "kubernetes":
        yield from _change(settings)


def _in_cluster(settings: DeploySettings) -> Iterator[Refused]:
    cluster = settings.kubernetes
    if cluster.rollouts is not None:
        why = "both replace the Deployment"
        yield Refused(key=(*_CLUSTER, "rollouts"), why=why, remedy="remove one of the two")
    if cluster.autoscaling is not None:
        why = "KServe scales by its Workload Variant Autoscaler only, not by waiting requests and not to zero"
        remedy = "remove it, and set deploy.replicas"
        yield Refused(key=(*_CLUSTER, "autoscaling"), why=why, remedy=remedy)
    if cluster.route and cluster.route.weights:
        why = "the route of an LLMInferenceService leads to its own pods, and shares of two releases are not rendered"
        remedy = "remove them, or remove deploy.kubernetes.kserve"
        yield Refused(key=(*_CLUSTER, "route", "weights"), why=why, remedy=remedy)
    if cluster.route and cluster.route.mirror:
        why = "KServe copies no requests"
        remedy = "remove it, or remove deploy.kubernetes.kserve"
        yield Refused(key=(*_CLUSTER, "route", "mirror"), why=why, remedy=remedy)
    if cluster.kserve and cluster.kserve.scheduler and not cluster.route:
        why = "KServe's scheduler belongs to a route"
        remedy = "set deploy.kubernetes.route.gateway, or remove it"
        yield Refused(key=(*_CLUSTER, "kserve", "scheduler"), why=why, remedy=remedy)


def _change(settings: DeploySettings) -> Iterator[Refused]:
    """KServe replaces the pods of a Deployment as Kubernetes does by default: a quarter of them at a time."""
    given = settings.model_fields_set
    if "strategy" in given and settings.strategy != "rolling":
        why = f"KServe replaces pods a few at a time: there is no {settings.strategy}"
        remedy = "set `strategy: rolling` for this channel, or remove deploy.kubernetes.kserve"
        yield Refused(key=("deploy", "strategy"), why=why, remedy=remedy)
    for name in sorted(settings.rolling.model_fields_set if "rolling" in given else ()):
        why = "KServe leaves it to Kubernetes, which replaces a quarter of the pods at a time"
        yield Refused(key=("deploy", "rolling", name), why=why, remedy="remove it, or remove deploy.kubernetes.kserve")


def require(settings: DeploySettings, model: Model, name: str) -> None:
    """Check that KServe can run a channel.

    Args:
        settings: Of the channel, which goes to a cluster.
        model: What it serves.
        name: Of its objects.

    Raises:
        ConfigError: It cannot.
    """
    found = [*refused(settings), *over_cluster.refused(settings)]
    if found:
        names, why, remedy = together(found)
        raise ConfigError(f"{names} cannot be used with deploy.kubernetes.kserve", why=why, remedy=remedy)
    if len(name) > LONGEST:
        raise ConfigError(
            f"{name} is too long for KServe, which adds to it: {LONGEST} characters are the limit",
            remedy="set a shorter `name` in vllm-ci.yaml",
        )
    if model.tiny:
        raise ConfigError(
            "KServe cannot serve a generated model",
            why="an LLMInferenceService says by an address where its model comes from",
            remedy="set model.name, deploy.kubernetes.model.image (an OCI image by digest) or deploy.kubernetes.model.claim",
        )
    if not _SERVED_NAME.fullmatch(model.served_name):
        raise ConfigError(
            f"KServe cannot serve a model under the name {model.served_name!r}",
            why="it writes the name into paths and templates: letters, digits, ._~:@- and slashes between them are possible",
            remedy="set model.served_name",
        )
