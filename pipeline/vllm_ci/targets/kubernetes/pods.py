"""What a pod's status says about a replica: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_ci.deploy.target import Replica, ReplicaState
from vllm_ci.manifests.app import PORT
from vllm_ci.targets.kubernetes.objects import REVISION

# Reasons for which a container does not start; waiting does not help (kubelet, "container status").
_HOPELESS = frozenset(
    {
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "CreateContainerConfigError",
    }
)


_ENDED = ("Failed", "Succeeded")


def replica(pod: Mapping[str, Any]) -> Replica:
    """The replica that a pod is."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    containers = status.get("containerStatuses") or []
    state, message = _state(metadata, status)
    address = status.get("podIP", "")
    return Replica(
        name=metadata["name"],
        revision=metadata["labels"][REVISION],
        state=state,
        url=f"http://{address}:{PORT}" if address else "",
        started_at=status.get("startTime") or metadata.get("creationTimestamp") or "",
        restarts=sum(each.get("restartCount", 0) for each in containers),
        message=message,
    )


def replaced(pod: Mapping[str, Any]) -> bool:
    """Whether it ended for good, by an eviction for instance, and its Deployment makes another one; its object may stay."""
    ended = (pod.get("status") or {}).get("phase") in _ENDED
    return ended and "deletionTimestamp" not in pod["metadata"]


def _state(metadata: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[ReplicaState, str]:
    if metadata.get("deletionTimestamp"):
        return "draining", ""
    if status.get("phase") in _ENDED:
        return "failed", status.get("message") or status.get("reason") or "it ended"
    if reason := _hopeless(status):
        return "failed", reason
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or [])
    return ("ready", "") if ready else ("starting", unschedulable(status))


def _hopeless(status: Mapping[str, Any]) -> str:
    """Why a container cannot start, or that it died while it started; empty when there is hope."""
    for each in (*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])):
        waiting = (each.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _HOPELESS:
            return f"{waiting['reason']}: {waiting.get('message', '')}".strip(": ")
        ended = (each.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            return f"exit code {ended['exitCode']} ({ended.get('reason', '')})"
    return ""


def unschedulable(status: Mapping[str, Any]) -> str:
    """Why no node takes a pod, with the scheduler's sum; empty when one does."""
    for each in status.get("conditions") or []:
        if each["type"] == "PodScheduled" and each["status"] == "False" and each.get("reason") == "Unschedulable":
            return str(each.get("message") or "no node takes it")
    return ""
