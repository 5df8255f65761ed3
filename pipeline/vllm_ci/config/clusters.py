"""From ``vllm-ci.yaml`` to what runs in a cluster: joins ``model``, ``server``, ``deploy`` and ``deploy.kubernetes``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from vllm_ci.config import over_cluster, over_grpc, over_kserve
from vllm_ci.config.deploy import DeploySettings
from vllm_ci.config.deployments import place
from vllm_ci.config.kubernetes import KServeConfig, RouteConfig
from vllm_ci.config.load import Loaded
from vllm_ci.domain.errors import ConfigError
from vllm_ci.manifests import names
from vllm_ci.manifests.app import App, CanaryRollout, HttpRoute, KServe, Model

_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")


def app(
    loaded: Loaded, channel: str, *, image: str, commit: str, entry_point: Callable[[], tuple[str, ...]] | None = None
) -> App:
    """What runs a channel.

    Args:
        loaded: The configuration.
        channel: Name of the channel.
        image: By digest.
        commit: Of the release.
        entry_point: Reads that of the image, which is asked for where it must be known; none: there is no image yet.

    Raises:
        ConfigError: The configuration cannot run in a cluster.
        UsageError: The channel serves gRPC, or has settings that would have no effect in a cluster.
    """
    settings = loaded.config.deploy.of(channel).model_copy(update={"target": "kubernetes"})
    over_grpc.require_target(settings)
    cluster, server, name = settings.kubernetes, loaded.config.server, _name(loaded, channel)
    key = {"VLLM_API_KEY": "VLLM_API_KEY"} if server.api_key_env or server.generate_api_key else {}
    model = _model(loaded, settings)
    if not (cluster.kserve or cluster.rollouts or settings.rolling.max_surge or settings.rolling.max_unavailable):
        raise ConfigError(
            "deploy.rolling: max_surge and max_unavailable are both 0, so no pod could ever be replaced",
            remedy="set max_surge to 1, or more",
        )
    if cluster.kserve:
        over_kserve.require(settings, model, name)
    else:
        over_cluster.require(settings)
    return App(
        name=name,
        channel=channel,
        namespace=cluster.namespace,
        image=image,
        commit=commit,
        model=model,
        args=tuple(server.args),
        env=_variables(server.env),
        secrets={**dict(_secret(each) for each in server.secrets), **key},
        secret=cluster.secret or name,
        replicas=settings.replicas,
        gpus=_gpus(server.gpus) if cluster.gpus is None else cluster.gpus,
        gpu_resource=cluster.gpu_resource,
        cpu=cluster.cpu,
        memory=cluster.memory or (f"{round(settings.memory_gib * 1024)}Mi" if settings.memory_gib else ""),
        shm=f"{server.shm_mib}Mi" if server.shm_mib else "1Gi",
        writable=tuple(cluster.writable),
        node_selector=dict(cluster.node_selector),
        pull_secret=cluster.pull_secret,
        runtime_class=cluster.runtime_class,
        ready_timeout_s=server.ready_timeout_s,
        drain_s=settings.drain_s,
        surge=settings.rolling.max_surge,
        unavailable=settings.rolling.max_unavailable,
        clients=tuple(cluster.clients),
        network_policy=cluster.network_policy,
        service_monitor=cluster.service_monitor,
        autoscaling=cluster.autoscaling.domain() if cluster.autoscaling else None,
        route=_route(loaded, channel, cluster.route) if cluster.route else None,
        rollout=_rollout(settings),
        kserve=_kserve(cluster.kserve, entry_point) if cluster.kserve else None,
    )


def _name(loaded: Loaded, channel: str) -> str:
    """Of the objects: that of the deployment."""
    name = place(loaded, channel).deployment
    try:
        names.deployment(name)
        names.label_value(channel)
    except ValueError as error:
        raise ConfigError(
            f"project {loaded.name!r} and channel {channel!r} give no name for Kubernetes",
            why=str(error),
            remedy="set a shorter `name` in vllm-ci.yaml, which begins with a letter",
        ) from error
    return name


def _model(loaded: Loaded, settings: DeploySettings) -> Model:
    model, cluster = loaded.config.model.domain(), settings.kubernetes.model
    if cluster.image or cluster.claim:
        return Model(served_name=model.served_name, image=cluster.image, claim=cluster.claim)
    if model.path or model.ref or model.wheel:
        raise ConfigError(
            f"the model is a folder of this machine: {model.path or model.ref or model.wheel}",
            why="pods cannot read it",
            remedy="set deploy.kubernetes.model.image (an OCI image by digest) or deploy.kubernetes.model.claim",
        )
    if model.tiny:
        return Model(served_name=model.served_name, tiny=model.tiny.parameters)
    return Model(served_name=model.served_name, name=model.name, revision=model.revision, cache_claim=cluster.cache_claim)


def _variables(env: Mapping[str, str]) -> dict[str, str]:
    for name in env:
        if not _VARIABLE.fullmatch(name):
            raise ConfigError(
                f"server.env: {name!r} is no name of a variable in Kubernetes",
                remedy="use letters, digits, _, - and . in names",
            )
    return dict(env)


def _secret(entry: str) -> tuple[str, str]:
    """Variable, and its key in the Secret: ``NEW=NAME`` passes NAME under another name."""
    new, _, name = entry.partition("=")
    return new, name or new


def _gpus(named: str) -> int:
    if named == "all":
        raise ConfigError(
            "server.gpus is all: Kubernetes needs a number", remedy="set deploy.kubernetes.gpus to the devices of one pod"
        )
    return 0 if named == "none" else len(named.split(","))


def _route(loaded: Loaded, channel: str, route: RouteConfig) -> HttpRoute:
    known = loaded.config.release.channels
    for each in (*route.weights, *([route.mirror] if route.mirror else [])):
        if each not in known:
            raise ConfigError(f"deploy.kubernetes.route: there is no channel {each}", remedy=f"name one of {', '.join(known)}")
    shares = route.weights or {channel: 100}
    return HttpRoute(
        gateway=route.gateway,
        gateway_namespace=route.gateway_namespace,
        hostnames=tuple(route.hostnames),
        weights={_name(loaded, each): weight for each, weight in shares.items()},
        mirror=_name(loaded, route.mirror) if route.mirror else "",
        mirror_percent=route.mirror_percent,
    )


def _rollout(settings: DeploySettings) -> CanaryRollout | None:
    rollouts = settings.kubernetes.rollouts
    if rollouts is None:
        return None
    route = settings.kubernetes.route
    if route and (route.weights or route.mirror):
        raise ConfigError(
            "deploy.kubernetes.route.weights and mirror cannot be used with rollouts",
            why="Argo Rollouts sets the weights of the route",
            remedy="remove them, or remove deploy.kubernetes.rollouts",
        )
    steps = tuple((each.weight, None if each.person else each.hold_s) for each in settings.canary.steps)
    return CanaryRollout(steps=steps, suites_image=rollouts.suites_image, stages=tuple(rollouts.stages))


def _kserve(kserve: KServeConfig, entry_point: Callable[[], tuple[str, ...]] | None) -> KServe:
    if not kserve.entry_point and entry_point is None:
        raise ConfigError(
            "a kustomize base for KServe needs the program that serves",
            why="KServe would start vLLM in its own way, and the image of a later release is not known here",
            remedy="set deploy.kubernetes.kserve.entry_point to the entry point that vllm-ci show prints of an image",
        )
    found = tuple(kserve.entry_point) or (entry_point() if entry_point else ())
    return KServe(entry_point=found, scheduler=kserve.scheduler)
