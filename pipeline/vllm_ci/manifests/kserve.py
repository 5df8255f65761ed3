"""For KServe: an ``LLMInferenceService`` in place of Deployment, Service and HTTPRoute.

KServe lays it over its own template ``kserve-config-llm-template``, by a strategic merge as in ``kubectl patch``, and reads the
result as a Go template (``pkg/controller/v1alpha2/llmisvc/config_merge.go`` of KServe 0.20). From the merge follows:

- The container is called ``main``, and its command line is said as a whole: the template starts vLLM by a shell.
- A probe or hook keeps the handler of the template. Another one beside it is refused by Kubernetes, so that the startup probe
  cannot ask for a completion, and the pod sleeps before its end by a program.
- Variables of the template that are not set here stay.
- Labels of pods become part of the Deployment's selector, which cannot change: none of them names a release.
"""

from __future__ import annotations

from typing import Any

from vllm_ci.manifests import network, pod
from vllm_ci.manifests.app import PORT, App, HttpRoute, KServe, Model
from vllm_ci.manifests.names import literal

VERSION = "serving.kserve.io/v1alpha2"
WORKLOAD, POOL = "-kserve-workload-svc", "-inference-pool"
"""Ends of the names that KServe gives to its Service and its InferencePool."""
SCHEDULED = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages")
"""Paths whose requests KServe's scheduler reads."""
_CERTIFICATES = "/var/run/kserve/tls"


def inference_service(app: App, kserve: KServe) -> dict[str, Any]:
    """The ``LLMInferenceService``; KServe makes the Deployment, its Service and the route of it."""
    made = {
        "apiVersion": VERSION,
        "kind": "LLMInferenceService",
        "metadata": app.metadata(),
        "spec": {
            "model": {"uri": uri(app.model), "name": app.model.served_name},
            "storageInitializer": {"enabled": False},  # the pod gets its model as ours do
            "replicas": app.replicas,
            "labels": app.lasting_labels,
            "annotations": _annotations(app),
            "template": _pod(app, kserve),
            **({"router": _router(app, kserve, app.route)} if app.route else {}),
        },
    }
    plain: dict[str, Any] = _verbatim(made)
    [container] = plain["spec"]["template"]["containers"]
    container["args"] += _tls()
    return plain


def uri(model: Model) -> str:
    """Where the model comes from, as KServe writes it."""
    if model.image:
        return f"oci://{model.image}"
    if model.claim:
        return f"pvc://{model.claim}"
    return f"hf://{model.name}" + (f":{model.revision}" if model.revision else "")


def verbatim(text: str) -> str:
    """Text that Go's ``text/template`` gives back as it is."""
    return text.replace("{{", "{{`{{`}}")


def _verbatim(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _verbatim(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_verbatim(each) for each in value]
    return verbatim(value) if isinstance(value, str) else value


def _tls() -> list[str]:
    """KServe as a whole says whether servers have TLS (``enableLLMInferenceServiceTLS``); a flag without a value is none."""
    only = "{{ if .GlobalConfig.EnableTLS }}" + _CERTIFICATES + "/%s{{ end }}"
    return [f"--ssl-certfile={only % 'tls.crt'}", f"--ssl-keyfile={only % 'tls.key'}"]


def _annotations(app: App) -> dict[str, str]:
    commit = {"vllm-ci/commit": app.commit} if app.commit else {}
    # The template says that servers have a second name, by which KServe's own routes find them; these have not.
    routing = {"serving.kserve.io/model-based-routing-enabled": "false"}
    return {**pod.noted(app), "kubectl.kubernetes.io/default-container": "main", **commit, **routing}


def _pod(app: App, kserve: KServe) -> dict[str, Any]:
    made = pod.spec(app)
    [container] = made["containers"]
    return {**made, "containers": [_container(app, kserve, container)], "volumes": _without_programs(made["volumes"])}


def _container(app: App, kserve: KServe, plain: dict[str, Any]) -> dict[str, Any]:
    asked = {key: value for key, value in plain["startupProbe"].items() if key != "exec"}
    return {
        **plain,
        "name": "main",
        "command": [literal(each) for each in kserve.entry_point],
        "env": _env(app, plain["env"]),
        "startupProbe": {**asked, "httpGet": plain["readinessProbe"]["httpGet"], "timeoutSeconds": 5},
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sleep", str(pod.LEAVE_S)]}}},
        "volumeMounts": _without_programs(plain["volumeMounts"]),
    }


def _env(app: App, plain: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the template would set otherwise: its home, and the folder of what is loaded from the hub."""
    given = {each["name"] for each in plain}
    hub = [f"{each['value']}/hub" for each in plain if each["name"] == "HF_HOME" and app.model.name]
    own = {"HOME": literal(app.writable[0]), **({"HF_HUB_CACHE": hub[0]} if hub else {})}
    return [*plain, *({"name": name, "value": value} for name, value in own.items() if name not in given)]


def _without_programs(named: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in named if each["name"] != "programs"]


def _router(app: App, kserve: KServe, route: HttpRoute) -> dict[str, Any]:
    """KServe's own rules lead to every path of vLLM, ``/metrics`` among them; these only to ``/v1``."""
    service = {"name": f"{app.name}{WORKLOAD}", "port": PORT, "weight": 1}
    pool = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": f"{app.name}{POOL}"}
    scheduled = [network.rule(path, [{**pool, "port": PORT, "weight": 1}]) for path in SCHEDULED if kserve.scheduler]
    spec = {**network.hosts(route), "rules": [*scheduled, network.rule(network.PREFIX, [service])]}
    return {
        "gateway": {"refs": [network.parent(route)]},
        "route": {"http": {"spec": spec}},
        **({"scheduler": {}} if kserve.scheduler else {}),
    }
