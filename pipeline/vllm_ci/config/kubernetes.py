"""Section ``deploy.kubernetes:`` of ``vllm-ci.yaml``: how a channel runs in a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from vllm_ci.config.section import Section
from vllm_ci.manifests import names

if TYPE_CHECKING:
    from vllm_ci.manifests.app import Autoscaling


_MOUNTED = ("/tmp", "/dev/shm", "/model", "/vllm-ci")  # noqa: S108 - in the pod


def _or_empty(value: str) -> str:
    return names.subdomain(value) if value else value


def _quantity(value: str) -> str:
    return names.quantity(value) if value else value


def _pinned(value: str) -> str:
    return names.pinned(value) if value else value


def _absolute(value: str) -> str:
    if not value.startswith("/") or any(part in ("", ".", "..") for part in value[1:].split("/")) or ":" in value:
        raise ValueError("write the absolute path of a folder in the image, e.g. /home/vllm")
    return value


def _url(value: str) -> str:
    parts = urlsplit(value)
    if value and (parts.scheme not in ("http", "https") or not parts.hostname or parts.password):
        raise ValueError("write a URL that is reached from the cluster, e.g. http://prometheus.monitoring:9090")
    return value


Object = Annotated[str, AfterValidator(_or_empty)]
Namespace = Annotated[str, AfterValidator(names.dns_label)]
Quantity = Annotated[str, AfterValidator(_quantity)]
Pinned = Annotated[str, AfterValidator(_pinned)]


def _apart(values: list[str]) -> list[str]:
    known = {*_MOUNTED, f"{values[0]}/huggingface"}
    for index, value in enumerate(values):
        if value in known or value in values[:index]:
            raise ValueError(f"{value} is mounted already; leave it out")
    return values


class ClusterModelConfig(Section):
    """Where the checkpoint comes from in the cluster; by default from the model hub (`model.name`), or it is generated."""

    image: Pinned = ""
    """OCI image whose files are the checkpoint, by digest (Kubernetes 1.35, or 1.31 with the feature gate ImageVolume)."""
    claim: Object = ""
    """PersistentVolumeClaim with the checkpoint; many pods read it."""
    cache_claim: Object = ""
    """PersistentVolumeClaim for what is loaded from the model hub; by default each new pod loads it again."""

    @model_validator(mode="after")
    def _one(self) -> ClusterModelConfig:
        if sum(map(bool, (self.image, self.claim, self.cache_claim))) > 1:
            raise ValueError("set only one of image, claim and cache_claim")
        return self


class AutoscalingConfig(Section):
    """Number of pods by the number of waiting requests."""

    by: Literal["hpa", "keda"] = "hpa"
    """`hpa` needs an adapter that serves the metric `vllm_num_requests_waiting`; `keda` asks Prometheus."""
    min: Annotated[int, Field(ge=0, le=1000)] = 1
    """Fewest pods; 0 only with `keda`."""
    max: Annotated[int, Field(ge=1, le=1000)] = 4
    """Most pods."""
    waiting: Annotated[int, Field(ge=1, le=100_000)] = 8
    """Waiting requests for each pod that are fine."""
    prometheus: Annotated[str, AfterValidator(_url)] = ""
    """URL of Prometheus as reached from the cluster, for `keda`."""

    @model_validator(mode="after")
    def _possible(self) -> AutoscalingConfig:
        if self.min > self.max:
            raise ValueError(f"`min` ({self.min}) is above `max` ({self.max})")
        if self.by == "hpa" and self.min == 0:
            raise ValueError("an HPA cannot scale to 0; use `by: keda`, or `min: 1`")
        if self.by == "keda" and not self.prometheus:
            raise ValueError("`by: keda` needs `prometheus`")
        return self

    def domain(self) -> Autoscaling:
        """Convert to the type of the manifests."""
        from vllm_ci.manifests.app import Autoscaling

        return Autoscaling(by=self.by, least=self.min, most=self.max, waiting=self.waiting, prometheus=self.prometheus)


class RouteConfig(Section):
    """Requests from outside: an HTTPRoute of the Gateway API."""

    gateway: Annotated[str, AfterValidator(names.subdomain)]
    """Name of the Gateway."""
    gateway_namespace: Object = ""
    """Its namespace; by default that of the channel."""
    hostnames: list[Annotated[str, AfterValidator(names.hostname)]] = Field(default_factory=list)
    """Host names of the requests; by default all of the Gateway."""
    weights: dict[str, Annotated[int, Field(ge=0, le=100)]] = Field(default_factory=dict)
    """Share of the requests in percent by channel, e.g. `{production: 95, staging: 5}`; by default all to this one."""
    mirror: str = ""
    """Channel that gets copies of the requests; nobody sees its answers."""
    mirror_percent: Annotated[int, Field(ge=1, le=100)] = 100
    """Share of the requests that is copied."""

    @model_validator(mode="after")
    def _whole(self) -> RouteConfig:
        if self.weights and sum(self.weights.values()) != 100:
            raise ValueError(f"the weights sum to {sum(self.weights.values())}, not to 100")
        return self


class RolloutsConfig(Section):
    """A `Rollout` for Argo Rollouts in place of the Deployment; its steps are those of `deploy.canary`."""

    suites_image: Pinned = ""
    """Image with vllm-ci, by digest, whose job tests the new pods before they get more requests; by default there is none."""
    stages: Annotated[list[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]], Field(min_length=1)] = Field(
        default_factory=lambda: ["integration", "streaming"]
    )
    """Stages of that job."""


class KServeConfig(Section):
    """An `LLMInferenceService` for KServe in place of Deployment, Service and HTTPRoute."""

    entry_point: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Program of the image that serves, e.g. `[vllm, serve]`; by default the image's own. A kustomize base needs it."""
    scheduler: bool = False
    """KServe's scheduler chooses the pod for each request; needs `route`, and the Gateway API's inference extension."""


class KubernetesConfig(Section):
    """How a channel runs in a cluster."""

    context: str = ""
    """Context of the kubectl configuration, for target `kubernetes`; by default the current one."""
    namespace: Annotated[str, AfterValidator(lambda value: names.dns_label(value) if value else value)] = ""
    """Namespace of all objects; by default the one that they are applied to, or that of the context."""
    model: ClusterModelConfig = Field(default_factory=ClusterModelConfig)
    """Where the checkpoint comes from."""
    secret: Object = ""
    """Secret with the values of `server.secrets` and the API key, by the names of the variables; by default PROJECT-CHANNEL."""
    pull_secret: Object = ""
    """Secret for the registry."""
    gpus: Annotated[int, Field(ge=0, le=64)] | None = None
    """Devices for each pod; by default as many as `server.gpus` names."""
    gpu_resource: Annotated[str, AfterValidator(names.label_name)] = "nvidia.com/gpu"
    """Name of the devices."""
    cpu: Quantity = ""
    """Processors for each pod, e.g. `8`."""
    memory: Quantity = ""
    """Memory for each pod, e.g. `64Gi`; by default `deploy.memory_gib`."""
    writable: Annotated[list[Annotated[str, AfterValidator(_absolute)]], Field(min_length=1), AfterValidator(_apart)] = Field(
        default_factory=lambda: ["/home/vllm"]
    )
    """Folders of the image that the server writes into; the rest is read-only. The first is its home."""
    node_selector: dict[Annotated[str, AfterValidator(names.label_name)], Annotated[str, AfterValidator(names.label_value)]] = (
        Field(default_factory=dict)
    )
    """Labels of the nodes."""
    runtime_class: Object = ""
    """Runtime class, where GPUs need one."""
    network_policy: bool = True
    """Limit connections with a NetworkPolicy."""
    clients: list[Namespace] = Field(default_factory=list)
    """Namespaces that may connect besides its own, that of Prometheus among them."""
    service_monitor: bool = False
    """Add a ServiceMonitor for the Prometheus operator."""
    autoscaling: AutoscalingConfig | None = None
    """Number of pods by load; by default `deploy.replicas`."""
    route: RouteConfig | None = None
    """Requests from outside."""
    rollouts: RolloutsConfig | None = None
    """A `Rollout` for Argo Rollouts."""
    kserve: KServeConfig | None = None
    """An `LLMInferenceService` for KServe."""
