"""The target itself: verbs of the port, carried out in a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from vllm_ci.config.deploy import DeploySettings
from vllm_ci.config.kubernetes import RouteConfig
from vllm_ci.deploy.comparison import Pair
from vllm_ci.deploy.target import Current, Drained, Observation, Replica, Revision, Route, TargetCapabilities
from vllm_ci.domain.errors import ErroredError, FailedError, UsageError
from vllm_ci.manifests import names
from vllm_ci.manifests.app import PORT
from vllm_ci.manifests.pod import LEAVE_S
from vllm_ci.suites import metrics
from vllm_ci.suites.metrics import Samples
from vllm_ci.targets.kubernetes import objects, observing, pods
from vllm_ci.targets.kubernetes.cluster import Cluster

_ROUTE = ("gateway.networking.k8s.io/v1", "HTTPRoute")
_GATEWAY = ("gateway.networking.k8s.io/v1", "Gateway")
_KINDS = (
    ("apps/v1", "Deployment"),
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("policy/v1", "PodDisruptionBudget"),
)
_LOOK_S = 5.0
_LATE_S = 120.0
_UNSCHEDULABLE_S = 60.0
_ACCEPT_S = 60.0
_LINES = 40
_SETTLE_S = 3.0
"""Until a Gateway has stopped to use an old route, after it said that it took the new one."""


class KubernetesTarget:
    """A deployment in a namespace.

    Args:
        cluster: The namespace.
        deployment: Name of the deployment.
        settings: Of the channel.

    Raises:
        UsageError: The settings leave the work to somebody else, or name no Gateway; or Kubernetes does not take the name.
    """

    name = "kubernetes"

    def __init__(self, cluster: Cluster, deployment: str, settings: DeploySettings) -> None:
        self._cluster = cluster
        self._deployment = deployment
        self._settings = settings
        self._through = _gateway(settings)
        try:
            names.deployment(deployment)
        except ValueError as error:
            remedy = "set a shorter `name` in vllm-ci.yaml, which begins with a letter"
            raise UsageError(f"{deployment} is no name for Kubernetes", why=str(error), remedy=remedy) from error

    @property
    def capabilities(self) -> TargetCapabilities:
        """As in the port; a Gateway may share in whole percents, copy, and choose by header."""
        return TargetCapabilities(weights=1, mirror=True, headers=True)

    async def current(self) -> Current:
        """As in the port."""
        deployments = await self._cluster.listed("apps/v1", "Deployment", objects.selector(self._deployment))
        revisions = objects.revisions_of(deployments)
        wanted = {each["metadata"]["labels"].get(objects.REVISION, ""): each["spec"].get("replicas", 0) for each in deployments}
        return Current(
            address=await self._address() if deployments else "",
            route=await self._route(),
            replicas=tuple(await self._replicas()),
            wanted={name: count for name, count in wanted.items() if count},
            revisions=revisions,
        )

    async def start(self, revision: Revision, replicas: int) -> None:
        """As in the port."""
        wanted = objects.objects(self._deployment, revision, replicas, self._settings)
        for each in wanted:  # what is refused is refused before anything is changed
            await self._cluster.apply(each, dry_run=True)
        for each in wanted:
            await self._cluster.apply(each)
        await self._until_ready(revision, replicas)

    async def _until_ready(self, revision: Revision, replicas: int) -> None:
        begun = time.monotonic()
        while True:
            there = await self._cluster.listed("v1", "Pod", objects.selector(self._deployment, revision.name))
            found = [pods.replica(each) for each in there if not pods.replaced(each)]
            if len(found) == replicas == sum(each.state == "ready" for each in found):
                return
            passed = time.monotonic() - begun
            for each in found:
                if each.state == "failed":
                    raise await self._failed(each, f"a server of {revision.name} does not start: {each.message}")
                if each.state == "starting" and each.message and passed > _UNSCHEDULABLE_S:
                    raise UsageError(
                        f"{replicas} servers of {revision.name} do not fit in the cluster",
                        why=each.message,
                        remedy="add nodes, or stop others",
                    )
            if passed > revision.serving.ready_timeout_s:
                late = next((each for each in found if each.state == "starting"), None)
                ended = next((f"; one ended: {pods.replica(each).message}" for each in there if pods.replaced(each)), "")
                said = f"{revision.name} has not {replicas} ready servers after {revision.serving.ready_timeout_s:g} s{ended}"
                raise await self._failed(late, said)
            await self._changed(revision.name, revision.serving.ready_timeout_s - passed)

    async def _failed(self, replica: Replica | None, message: str) -> FailedError:
        log = ""
        if replica is not None:
            current = await self._cluster.log(replica.name, lines=_LINES)
            log = current or await self._cluster.log(replica.name, lines=_LINES, previous=True)
        return FailedError(
            message, why=f"the end of its log:\n{log}" if log else "it has no log", remedy="see kubectl describe pod"
        )

    async def route(self, route: Route) -> None:
        """As in the port."""
        ready = {each.revision for each in await self._replicas() if each.state == "ready"}
        for name in sorted(route.revisions - ready):
            raise FailedError(f"no replica of {name} is ready", remedy="start it first, or look at its log")
        before = await self._route()
        if not route.revisions:
            await self._cluster.delete(*_ROUTE, objects.selector(self._deployment))
            return
        await self._cluster.apply(objects.http_route(self._deployment, route, self._through))
        try:
            await self._accepted()
        except ErroredError:
            if before.revisions:
                await self._cluster.apply(objects.http_route(self._deployment, before, self._through))
            raise

    async def _accepted(self) -> None:
        """Wait until the Gateway has taken the route as it is now (``status.parents``)."""
        end = time.monotonic() + _ACCEPT_S
        while True:
            found = await self._cluster.found(*_ROUTE, self._deployment)
            refused, taken = _taken(found or {})
            if taken:
                return
            if refused or time.monotonic() > end:
                raise ErroredError(
                    f"Gateway {self._through.gateway} did not take the route",
                    why=refused or f"no answer in {_ACCEPT_S:g} s",
                    remedy=f"see kubectl describe httproute {self._deployment}",
                )
            await self._cluster.change(*_ROUTE, objects.selector(self._deployment), seconds=1)

    async def drain(self, revision: str, *, deadline_s: float) -> Drained:
        """As in the port."""
        await self._unrouted(revision)
        begun = time.monotonic()
        idle_since: float | None = None
        while True:
            serving = [each for each in await self._replicas(revision) if each.state in ("ready", "draining")]
            count = observing.open_requests((await self._looked(serving)).values())
            now = time.monotonic()
            idle_since = None if count else idle_since or now
            # A Gateway may still send a request that it took by the old route.
            if not serving or (idle_since is not None and now - idle_since >= _SETTLE_S) or now - begun >= deadline_s:
                return Drained(seconds=now - begun, open=count)
            await anyio.sleep(1)

    async def stop(self, revision: str) -> None:
        """As in the port; pods end as Kubernetes ends them."""
        await self._unrouted(revision)
        known = (await self.current()).revisions.get(revision)
        await self._delete(objects.selector(self._deployment, revision), known.serving.drain_s if known else 0.0)

    async def observe(self, *, seconds: float) -> Observation:
        """As in the port, counted by the servers: the Gateway API has no metrics of its own."""
        begun = time.monotonic()
        before = await self._by_revision()
        await anyio.sleep(seconds)
        after = await self._by_revision()
        samples = {name: observing.sample(before.get(name, {}), looked) for name, looked in after.items() if looked}
        return Observation(seconds=time.monotonic() - begun, samples=samples)

    async def _by_revision(self) -> dict[str, dict[str, Samples]]:
        served = [each for each in await self._replicas() if each.state == "ready"]
        looked = await self._looked(served, strict=False)
        found: dict[str, dict[str, Samples]] = {}
        for each in served:
            if each.name in looked:
                found.setdefault(each.revision, {})[each.name] = looked[each.name]
        return found

    async def _looked(self, replicas: list[Replica], *, strict: bool = True) -> dict[str, Samples]:
        found = {}
        for each in replicas:
            text = await self._cluster.metrics(each.name, PORT)
            if text is None and strict and each.state == "ready":
                raise ErroredError(
                    f"the metrics of {each.name} cannot be read, so its open requests are not known",
                    remedy="the user needs the right to get pods/proxy",
                )
            if text is not None:
                found[each.name] = _parsed(text, each.name)
        return found

    @contextmanager
    def comparing(self) -> Iterator[Callable[[], tuple[Pair, ...]]]:
        """As in the port; no plan asks for it, because the target says that it cannot."""
        yield tuple[Pair, ...]

    async def logs(self, replica: str, *, lines: int = 200) -> str:
        """As in the port."""
        if replica not in {each.name for each in await self._replicas()}:
            raise UsageError(f"there is no replica {replica}", remedy="see them with: vllm-ci deploy status CHANNEL")
        return await self._cluster.log(replica, lines=lines)

    async def close(self) -> None:
        """As in the port."""
        everything = objects.selector(self._deployment)
        await self._cluster.delete(*_ROUTE, everything)
        await self._delete(everything, self._settings.drain_s)

    async def _delete(self, selector: str, drain_s: float) -> None:
        """Delete, and wait until the pods have ended: at most their grace period and some more."""
        for version, kind in _KINDS:
            await self._cluster.delete(version, kind, selector)
        end = time.monotonic() + LEAVE_S + drain_s + _LATE_S
        while left := await self._cluster.listed("v1", "Pod", selector):
            if time.monotonic() > end:
                raise ErroredError(
                    f"{len(left)} pods do not end, e.g. {left[0]['metadata']['name']}",
                    why="a node that cannot be reached keeps its pods",
                    remedy="see kubectl get pods and kubectl get nodes; then run the command again",
                )
            await self._cluster.change("v1", "Pod", selector, seconds=_LOOK_S)

    async def _route(self) -> Route:
        return objects.route_of(await self._cluster.found(*_ROUTE, self._deployment))

    async def _replicas(self, revision: str = "") -> list[Replica]:
        found = await self._cluster.listed("v1", "Pod", objects.selector(self._deployment, revision))
        return sorted((pods.replica(each) for each in found), key=lambda each: each.name)

    async def _changed(self, revision: str, left_s: float) -> None:
        await self._cluster.change(
            "v1", "Pod", objects.selector(self._deployment, revision), seconds=max(0, min(_LOOK_S, left_s))
        )

    async def _unrouted(self, revision: str) -> None:
        if revision in (await self._route()).revisions:
            raise UsageError(f"requests still go to {revision}", remedy="route them to another revision first")

    async def _address(self) -> str:
        """The first host name, or the Gateway's own address; empty when it has none yet."""
        if self._through.hostnames and not self._through.hostnames[0].startswith("*"):
            return f"http://{self._through.hostnames[0]}"
        namespace = self._through.gateway_namespace or self._cluster.namespace
        found = await self._cluster.found(*_GATEWAY, self._through.gateway, namespace=namespace)
        addresses = ((found or {}).get("status") or {}).get("addresses") or [{}]
        return f"http://{addresses[0]['value']}" if addresses[0].get("value") else ""


def _parsed(text: str, name: str) -> Samples:
    try:
        return metrics.parse(text)
    except ValueError as error:
        raise ErroredError(f"the metrics of {name} cannot be read", why=str(error)) from error


def _gateway(settings: DeploySettings) -> RouteConfig:
    cluster = settings.kubernetes
    if cluster.rollouts is not None:
        raise UsageError(
            "Argo Rollouts changes this channel (deploy.kubernetes.rollouts)",
            remedy="let GitOps apply vllm-ci render kubernetes CHANNEL, or remove deploy.kubernetes.rollouts",
        )
    if cluster.kserve is not None:
        raise UsageError(
            "KServe changes this channel (deploy.kubernetes.kserve)",
            remedy="let GitOps apply vllm-ci render kubernetes CHANNEL, or remove deploy.kubernetes.kserve",
        )
    if cluster.autoscaling is not None:
        raise UsageError(
            "target kubernetes sets the number of servers itself",
            remedy="remove deploy.kubernetes.autoscaling, or use vllm-ci render",
        )
    if cluster.route is None:
        raise UsageError("target kubernetes needs a Gateway", remedy="set deploy.kubernetes.route.gateway")
    if cluster.route.weights or cluster.route.mirror:
        raise UsageError(
            "target kubernetes sets the weights itself", remedy="remove weights and mirror of deploy.kubernetes.route"
        )
    return cluster.route


def _taken(found: dict[str, Any]) -> tuple[str, bool]:
    """Why a Gateway refused a route as it is now, and whether it took it."""
    generation = found.get("metadata", {}).get("generation")
    answers = [
        each
        for parent in (found.get("status") or {}).get("parents") or []
        for each in parent.get("conditions") or []
        if each["type"] in ("Accepted", "ResolvedRefs") and each.get("observedGeneration") == generation
    ]
    refused = "; ".join(f"{each['type']}: {each.get('message', '')}" for each in answers if each["status"] == "False")
    return refused, not refused and {"Accepted", "ResolvedRefs"} <= {
        each["type"] for each in answers if each["status"] == "True"
    }
