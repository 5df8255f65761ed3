"""A namespace of a cluster, through the official client: server-side apply, lists, watches. Errors are translated here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import anyio

from vllm_ci.domain.errors import ErroredError, UsageError

MANAGER = "vllm-ci"
"""Field manager: the API server keeps apart which fields are ours; those that we do not set stay as others set them."""
_CONNECT_S, _TIMEOUT_S = 10.0, 30.0
_Result = TypeVar("_Result")


class Cluster:
    """One namespace.

    Args:
        client: ``kubernetes.client.ApiClient``.
        namespace: Its name.
        cache: File for what the API server offers.
    """

    def __init__(self, client: Any, namespace: str, cache: Path) -> None:
        self.client = client
        self.namespace = namespace
        self._cache = cache
        self._dynamic: Any = None

    async def apply(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Make an object as ``manifest`` says; fields that others manage stay (server-side apply).

        Raises:
            UsageError: The cluster refuses it, or has no such kind.
            ErroredError: The cluster cannot be reached, or refuses access.
        """
        body = {**manifest, "metadata": {**manifest["metadata"], "namespace": self.namespace}}
        # The server reads it as YAML, which has no surrogate pairs: characters stand for themselves.
        text = json.dumps(body, ensure_ascii=False)
        dry = {"dry_run": "All"} if dry_run else {}

        def call() -> dict[str, Any]:
            kind = self._kind(manifest["apiVersion"], manifest["kind"])
            options = {"name": body["metadata"]["name"], "field_manager": MANAGER, "force_conflicts": True, **dry}
            made: dict[str, Any] = kind.server_side_apply(body=text, namespace=self.namespace, **options).to_dict()
            return made

        return await self._called(call, f"{manifest['kind']} {manifest['metadata']['name']}")

    async def listed(self, version: str, kind: str, selector: str) -> list[dict[str, Any]]:
        """Objects with labels.

        Raises:
            ErroredError: The cluster cannot be reached, or refuses access.
        """

        def call() -> list[dict[str, Any]]:
            answer = self._kind(version, kind).get(namespace=self.namespace, label_selector=selector).to_dict()
            found: list[dict[str, Any]] = answer.get("items") or []
            return found

        return await self._called(call, f"objects of kind {kind}")

    async def found(self, version: str, kind: str, name: str, *, namespace: str = "") -> dict[str, Any] | None:
        """One object, by default of this namespace."""
        from kubernetes.client.exceptions import ApiException

        def call() -> dict[str, Any] | None:
            try:
                one: dict[str, Any] = self._kind(version, kind).get(namespace=namespace or self.namespace, name=name).to_dict()
            except ApiException as error:
                if error.status == 404:
                    return None
                raise
            return one

        return await self._called(call, f"{kind} {name}")

    async def delete(self, version: str, kind: str, selector: str) -> None:
        """Delete all objects with labels, and what they own."""
        for each in await self.listed(version, kind, selector):
            await self._delete(version, kind, each["metadata"]["name"])

    async def _delete(self, version: str, kind: str, name: str) -> None:
        from kubernetes.client.exceptions import ApiException

        def call() -> None:
            with suppress_status(ApiException, 404):
                options = {"propagation_policy": "Background"}
                self._kind(version, kind).delete(name=name, namespace=self.namespace, **options)

        await self._called(call, f"{kind} {name}")

    async def log(self, pod: str, *, lines: int, previous: bool = False) -> str:
        """The end of a pod's log; empty when there is none."""
        from kubernetes import client
        from kubernetes.client.exceptions import ApiException

        def call() -> str:
            api = client.CoreV1Api(self.client)
            with suppress_status(ApiException, 400, 404, 500, 502, 503):
                options = {"container": "vllm", "tail_lines": lines, "previous": previous, "_request_timeout": _TIMEOUT_S}
                return str(api.read_namespaced_pod_log(pod, self.namespace, **options))
            return ""

        return await self._called(call, f"the log of {pod}")

    async def metrics(self, pod: str, port: int) -> str | None:
        """A pod's ``/metrics`` by way of the API server; ``None`` when it does not answer."""
        from kubernetes import client
        from kubernetes.client.exceptions import ApiException

        def call() -> str | None:
            api = client.CoreV1Api(self.client)
            with suppress_status(ApiException, 404, 500, 502, 503, 504):
                name = f"{pod}:{port}"
                answer = api.connect_get_namespaced_pod_proxy_with_path(
                    name, self.namespace, "metrics", _preload_content=False, _request_timeout=_TIMEOUT_S
                )
                return bytes(answer.data).decode(errors="replace")
            return None

        return await self._called(call, f"the metrics of {pod}")

    async def change(self, version: str, kind: str, selector: str, *, seconds: float) -> None:
        """Return at the next change of an object with these labels, at the latest after ``seconds``."""
        from kubernetes.client.exceptions import ApiException

        def call() -> None:
            offered = self._kind(version, kind)
            now = offered.get(namespace=self.namespace, label_selector=selector).to_dict()["metadata"]["resourceVersion"]
            from kubernetes import watch

            watcher = watch.Watch()
            limits = {"timeout": max(1, round(seconds)), "resource_version": now, "watcher": watcher}
            with suppress_status(ApiException, 410):  # too old: look again
                for _ in offered.watch(namespace=self.namespace, label_selector=selector, **limits):
                    watcher.stop()

        await self._called(call, f"changes of {kind}")

    async def close(self) -> None:
        """End connections."""
        await anyio.to_thread.run_sync(self.client.close)

    def _kind(self, version: str, kind: str) -> Any:
        from kubernetes.dynamic import DynamicClient
        from kubernetes.dynamic.exceptions import ResourceNotFoundError

        if self._dynamic is None:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            self._dynamic = DynamicClient(self.client, cache_file=str(self._cache))
        try:
            return self._dynamic.resources.get(api_version=version, kind=kind)
        except ResourceNotFoundError as error:
            raise UsageError(
                f"the cluster has no {kind} of {version}",
                remedy="install the Gateway API's definitions" if kind == "HTTPRoute" else "use Kubernetes 1.30 or later",
            ) from error

    async def _called(self, call: Callable[[], _Result], what: str) -> _Result:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return await anyio.to_thread.run_sync(call, abandon_on_cancel=True)
        except ApiException as error:
            raise translated(error.status, error.body, what) from error
        except (HTTPError, OSError) as error:
            raise ErroredError(
                "the cluster cannot be reached", why=f"{type(error).__name__}: {error}", remedy="see kubectl cluster-info"
            ) from error


class suppress_status:  # noqa: N801 - reads as contextlib.suppress does
    """Suppress an exception of the client with one of some statuses."""

    def __init__(self, kind: type[Exception], *statuses: int) -> None:
        self._kind, self._statuses = kind, statuses

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        return isinstance(error, self._kind) and getattr(error, "status", 0) in self._statuses


def translated(status: int | None, body: Any, what: str) -> ErroredError | UsageError:
    """The error for an answer of the API server (its body is a ``Status``)."""
    said = ""
    with suppress(ValueError, AttributeError, TypeError):
        said = str(json.loads(body).get("message", ""))
    if status in (401, 403):
        return ErroredError(
            f"the cluster refuses access to {what}",
            why=said,
            remedy="see kubectl auth can-i; docs/kubernetes.md lists the rights",
        )
    if status in (400, 404, 405, 409, 422):
        return UsageError(f"the cluster refuses {what}", why=said, remedy="correct deploy.kubernetes in vllm-ci.yaml")
    return ErroredError(f"the cluster failed at {what} (status {status})", why=said, remedy="run the command again")


def bounded(client: Any) -> Any:
    """The same client, whose requests do not wait for an answer forever; it has no timeout of its own.

    Args:
        client: ``kubernetes.client.ApiClient``.
    """
    request = client.rest_client.request

    def in_time(*given: Any, **named: Any) -> Any:
        return request(*given, **{**named, "_request_timeout": named.get("_request_timeout") or (_CONNECT_S, _TIMEOUT_S)})

    client.rest_client.request = in_time
    return client


async def connected(context: str, namespace: str, *, cache: Path) -> Cluster:
    """The cluster of a context of the user's configuration.

    Args:
        context: Of the configuration (``KUBECONFIG``); empty: the current one.
        namespace: Empty: that of the context.
        cache: File for what the API server offers.

    Raises:
        UsageError: The client is not installed, or no cluster is configured.
    """
    try:
        from kubernetes import config
    except ImportError as error:
        raise UsageError("target kubernetes needs the Kubernetes client", remedy="pip install 'vllm-ci[kubernetes]'") from error

    def call() -> Cluster:
        try:
            client = bounded(config.new_client_from_config(context=context or None))
            _, current = config.list_kube_config_contexts()
            used = next((each for each in config.list_kube_config_contexts()[0] if each["name"] == context), current)
            return Cluster(client, namespace or used["context"].get("namespace") or "default", cache)
        except config.ConfigException as error:
            raise UsageError(
                f"no cluster is configured: {error}", remedy="set KUBECONFIG, or deploy.kubernetes.context"
            ) from error

    return await anyio.to_thread.run_sync(call)
