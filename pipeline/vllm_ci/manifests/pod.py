"""The pod: one container with vLLM, its probes, its end, and what it may write.

- *Startup* is one real completion: vLLM answers ``/health`` with 200 before it can serve. *Readiness* is ``/health``
  afterwards: a completion would wait in a full queue and take away every busy server at once. *Liveness* gives up only after
  five minutes without any answer; a dead engine ends the process by itself.
- *The end*: the pod leaves the endpoints and is asked to end at the same moment, and proxies hear of it later: it sleeps first,
  then vLLM lets its streams end (``--shutdown-timeout``).
"""

from __future__ import annotations

from typing import Any

from vllm_ci.manifests.app import PORT, App
from vllm_ci.manifests.names import literal

LEAVE_S = 15
"""Until all proxies have heard that a pod takes no new requests."""
MODEL, PROGRAMS = "/model", "/vllm-ci"
_KEY = "VLLM_API_KEY"
_MARGIN_S = 30


def template(app: App) -> dict[str, Any]:
    """The template of pods."""
    return {"metadata": {"labels": app.labels, "annotations": noted(app)}, "spec": spec(app)}


def noted(app: App) -> dict[str, str]:
    """Annotations of a pod."""
    return {"kubectl.kubernetes.io/default-container": "vllm", "vllm-ci/model": app.model.served_name}


def spec(app: App) -> dict[str, Any]:
    """The specification of a pod."""
    generated = {"initContainers": [_generator(app)]} if app.model.tiny else {}
    placed = {
        **({"nodeSelector": dict(app.node_selector)} if app.node_selector else {}),
        **({"runtimeClassName": app.runtime_class} if app.runtime_class else {}),
        **({"imagePullSecrets": [{"name": app.pull_secret}]} if app.pull_secret else {}),
        **({"tolerations": [{"key": app.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}]} if app.gpus else {}),
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a Service named vllm would set VLLM_PORT, which vLLM reads
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            **({"fsGroup": 2000, "fsGroupChangePolicy": "OnRootMismatch"} if app.model.cache_claim else {}),
        },
        "terminationGracePeriodSeconds": grace_s(app),
        **placed,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": app.selector},
            }
        ],
        **generated,
        "containers": [container(app)],
        "volumes": _volumes(app),
    }


def grace_s(app: App) -> int:
    """Sleep, streams, and a margin: longer than vLLM's own timeout."""
    return LEAVE_S + int(app.drain_s) + _MARGIN_S


def container(app: App) -> dict[str, Any]:
    """The server."""
    return {
        "name": "vllm",
        "image": app.image,
        "imagePullPolicy": "IfNotPresent",  # a digest never changes
        **_called(app),
        "env": _env(app),
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "resources": _resources(app),
        **probes(app),
        "lifecycle": {"preStop": {"sleep": {"seconds": LEAVE_S}}},
        "securityContext": _restricted(),
        "volumeMounts": _mounts(app),
    }


def _called(app: App) -> dict[str, list[str]]:
    if app.command:
        return {"command": [literal(each) for each in app.command]}
    return {"args": [literal(each) for each in arguments(app)]}


def arguments(app: App) -> tuple[str, ...]:
    """Flags of the server."""
    model = app.model
    source = MODEL if model.tiny or model.image or model.claim else model.name
    revision = ("--revision", model.revision) if model.revision and source == model.name else ()
    own = ("--model", source, *revision, "--served-model-name", model.served_name)
    end = ("--shutdown-timeout", str(int(app.drain_s)))
    return (*own, "--host", "0.0.0.0", "--port", str(PORT), *end, *app.args)  # noqa: S104 - inside a pod


def probes(app: App) -> dict[str, Any]:
    """See the top of this file."""
    asked = ["python", f"{PROGRAMS}/ready.py", f"http://127.0.0.1:{PORT}", literal(app.model.served_name), _KEY]
    health = {"httpGet": {"path": "/health", "port": "http"}}
    period = 10
    return {
        "startupProbe": {
            "exec": {"command": asked},
            "periodSeconds": period,
            "timeoutSeconds": 65,
            "failureThreshold": max(1, -(-int(app.ready_timeout_s) // period)),
        },
        "readinessProbe": {**health, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**health, "periodSeconds": 30, "timeoutSeconds": 30, "failureThreshold": 10},
    }


def _env(app: App) -> list[dict[str, Any]]:
    plain = {"HF_HOME": f"{app.writable[0]}/huggingface", **app.env} if app.model.name else dict(app.env)
    fixed = [{"name": name, "value": literal(value)} for name, value in sorted(plain.items())]
    secret = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": app.secret, "key": key}}}
        for name, key in sorted(app.secrets.items())
    ]
    return fixed + secret


def _resources(app: App) -> dict[str, Any]:
    asked = {**({"cpu": app.cpu} if app.cpu else {}), **({"memory": app.memory} if app.memory else {})}
    gpus = {app.gpu_resource: str(app.gpus)} if app.gpus else {}
    limits = {**({"memory": app.memory} if app.memory else {}), **gpus}
    return {**({"requests": {**asked, **gpus}} if asked or gpus else {}), **({"limits": limits} if limits else {})}


def _restricted() -> dict[str, Any]:
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def _generator(app: App) -> dict[str, Any]:
    """Makes the tiny model."""
    return {
        "name": "model",
        "image": app.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", f"{PROGRAMS}/tiny_model.py", MODEL, literal(app.model.tiny)],
        "securityContext": _restricted(),
        "volumeMounts": [mount for mount in _mounts(app, writes_model=True) if mount["name"] != "shm"],
    }


def _writable(app: App) -> list[tuple[str, str]]:
    """Name of the volume and its folder."""
    return [("tmp", "/tmp"), *((f"write-{index}", path) for index, path in enumerate(app.writable))]  # noqa: S108 - in the pod


def _mounts(app: App, *, writes_model: bool = False) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [{"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108 - in the pod
    mounts += [{"name": name, "mountPath": path} for name, path in _writable(app)]
    mounts.append({"name": "programs", "mountPath": PROGRAMS, "readOnly": True})
    if app.model.tiny or app.model.image or app.model.claim:
        mounts.append({"name": "model", "mountPath": MODEL, **({} if writes_model else {"readOnly": True})})
    elif app.model.cache_claim:
        mounts.append({"name": "hub", "mountPath": f"{app.writable[0]}/huggingface"})
    return mounts


def _volumes(app: App) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": app.shm}}]
    volumes += [{"name": name, "emptyDir": {}} for name, _ in _writable(app)]
    volumes.append({"name": "programs", "configMap": {"name": f"{app.name}-programs"}})
    if app.model.tiny:
        volumes.append({"name": "model", "emptyDir": {}})
    elif app.model.image:
        volumes.append({"name": "model", "image": {"reference": app.model.image, "pullPolicy": "IfNotPresent"}})
    elif app.model.claim:
        volumes.append({"name": "model", "persistentVolumeClaim": {"claimName": app.model.claim, "readOnly": True}})
    elif app.model.cache_claim:
        volumes.append({"name": "hub", "persistentVolumeClaim": {"claimName": app.model.cache_claim}})
    return volumes
