"""What is to run: everything that manifests are made of. Values are checked where they are made (``config/kubernetes.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

UNPINNED = "sha256:" + "0" * 64
"""Digest in a kustomize base: no such image exists, so that a base without its overlay runs nothing."""
PORT = 8000


@dataclass(frozen=True, kw_only=True)
class Model:
    """Where the checkpoint comes from; at most one of the four.

    Attributes:
        served_name: The name that requests give.
        tiny: Parameters of a model that is generated at the start (JSON); for tries.
        image: An OCI image whose files are the checkpoint, by digest.
        claim: A PersistentVolumeClaim with the checkpoint.
        name: Name on the model hub.
        revision: Its commit there.
        cache_claim: A claim that keeps what was loaded from the hub; empty: loaded again by each new pod.
    """

    served_name: str
    tiny: str = ""
    image: str = ""
    claim: str = ""
    name: str = ""
    revision: str = ""
    cache_claim: str = ""


@dataclass(frozen=True, kw_only=True)
class Autoscaling:
    """Number of pods by the number of waiting requests.

    Attributes:
        by: ``hpa`` needs an adapter that serves ``vllm_num_requests_waiting``; ``keda`` asks Prometheus itself.
        least: Pods.
        most: Pods.
        waiting: Waiting requests per pod that are fine.
        prometheus: URL, for ``keda``.
    """

    by: Literal["hpa", "keda"]
    least: int
    most: int
    waiting: int
    prometheus: str = ""


@dataclass(frozen=True, kw_only=True)
class HttpRoute:
    """A route of the Gateway API.

    Attributes:
        gateway: Name of the Gateway.
        gateway_namespace: Where it is; empty: the same namespace.
        hostnames: Those that it answers to; empty: all of the Gateway.
        weights: Service -> share in percent; they sum to 100.
        mirror: Service that gets copies of requests; empty: none.
        mirror_percent: Share that is copied.
    """

    gateway: str
    gateway_namespace: str = ""
    hostnames: tuple[str, ...] = ()
    weights: Mapping[str, int] = field(default_factory=dict)
    mirror: str = ""
    mirror_percent: int = 100


@dataclass(frozen=True, kw_only=True)
class CanaryRollout:
    """An Argo Rollouts ``Rollout`` in place of the Deployment.

    Attributes:
        steps: Weight in percent, and seconds at it; ``None``: until a person goes on.
        suites_image: Image with vllm-ci, by digest, whose job tests the new pods; empty: no analysis.
        stages: Stages of that job.
    """

    steps: tuple[tuple[int, float | None], ...]
    suites_image: str = ""
    stages: tuple[str, ...] = ("integration", "streaming")


@dataclass(frozen=True, kw_only=True)
class KServe:
    """An ``LLMInferenceService`` for KServe in place of Deployment, Service and HTTPRoute.

    Attributes:
        entry_point: Of the image: KServe's template would start vLLM in its own way.
        scheduler: KServe chooses the pod of each request; needs the Gateway API's inference extension.
    """

    entry_point: tuple[str, ...]
    scheduler: bool = False


@dataclass(frozen=True, kw_only=True)
class App:
    """A channel in a cluster.

    Attributes:
        name: Of all its objects.
        channel: Of the release; empty: it has no label of it.
        namespace: Empty: that of who applies it.
        image: By digest.
        commit: Of the release; empty in a base.
        model: The checkpoint.
        args: Flags of vLLM, without those that are set here.
        command: The whole command line in place of the image's entry point and the flags.
        env: Variables of the container.
        secrets: Variable -> key in the Secret ``secret``.
        secret: Name of the Secret.
        replicas: Pods.
        gpus: Devices for each pod.
        gpu_resource: What they are called.
        cpu: Processors of each pod; empty: not said.
        memory: Memory of each pod; empty: not said.
        shm: Size of ``/dev/shm``.
        writable: Folders in the image that the server writes into.
        node_selector: Labels of nodes.
        pull_secret: Of the registry.
        runtime_class: For GPUs where the cluster needs it.
        ready_timeout_s: How long a start may take.
        drain_s: How long streams may go on at the end.
        surge: Pods beyond the wanted number in a change.
        unavailable: Pods that may be missing meanwhile.
        clients: Namespaces that may connect, besides its own; empty with ``network_policy``: only its own.
        network_policy: Connections are limited.
        service_monitor: The Prometheus operator scrapes it.
        autoscaling: By load, or a fixed number.
        route: From a Gateway.
        rollout: For Argo Rollouts.
        kserve: For KServe.
        more_labels: Of every object.
    """

    name: str
    channel: str
    namespace: str = ""
    image: str
    commit: str = ""
    model: Model
    args: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    secret: str = ""
    replicas: int = 1
    gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"
    cpu: str = ""
    memory: str = ""
    shm: str = "1Gi"
    writable: tuple[str, ...] = ("/home/vllm",)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    pull_secret: str = ""
    runtime_class: str = ""
    ready_timeout_s: float = 600.0
    drain_s: float = 120.0
    surge: int = 1
    unavailable: int = 0
    clients: tuple[str, ...] = ()
    network_policy: bool = True
    service_monitor: bool = False
    autoscaling: Autoscaling | None = None
    route: HttpRoute | None = None
    rollout: CanaryRollout | None = None
    kserve: KServe | None = None
    more_labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def selector(self) -> dict[str, str]:
        """Labels of pods that never change: a Deployment's selector cannot. Pods of KServe have a name that KServe gives."""
        instance = {"app.kubernetes.io/instance": self.name}
        return instance if self.kserve else {"app.kubernetes.io/name": "vllm", **instance}

    @property
    def lasting_labels(self) -> dict[str, str]:
        """Labels of pods that are the same for all releases."""
        channel = {"vllm-ci/channel": self.channel} if self.channel else {}
        return {**self.selector, **channel, **self.more_labels}

    @property
    def labels(self) -> dict[str, str]:
        """Labels of every object."""
        version = {"app.kubernetes.io/version": self.commit} if self.commit else {}
        own = {"app.kubernetes.io/name": "vllm", **self.selector, **version, "app.kubernetes.io/managed-by": "vllm-ci"}
        return {**own, **self.lasting_labels}

    def metadata(self, suffix: str = "") -> dict[str, object]:
        """Name, namespace and labels of an object."""
        place = {"namespace": self.namespace} if self.namespace else {}
        return {"name": f"{self.name}{suffix}", **place, "labels": self.labels}
