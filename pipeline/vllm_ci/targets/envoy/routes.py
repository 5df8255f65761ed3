"""Which requests go to which revision, and which are answered with 404."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from vllm_ci.deploy.target import REVISION_HEADER, Route
from vllm_ci.domain.gateway import GatewaySettings, Wire
from vllm_ci.targets.envoy import waker
from vllm_ci.targets.envoy.authentication import CREDENTIAL_HEADER, FILTER
from vllm_ci.targets.envoy.files import ROUTE_NAME, Json, cluster_name, typed
from vllm_ci.targets.envoy.tap import SHADOW, switched_on

_METADATA = "vllm_ci.route"
_METHODS = "GET|HEAD|POST|DELETE"


def routes(route: Route, settings: GatewaySettings, *, asleep: str = "") -> Json:
    """The route configuration; ``route`` itself is kept in it as metadata, see :func:`route_of`.

    Args:
        route: How requests are shared.
        settings: Of the gateway.
        asleep: Name of a revision without a server, whose requests wait until it has one.
    """
    unknown = "no such method" if settings.protocol == "grpc" else "no such path"
    denied = [_answer(match, 404, unknown) for path in settings.denied for match in _denied(path)]
    allowed = [_match(path, settings.protocol) for path in settings.routes]
    served = [each for match in allowed for each in _allowed(match, route, asleep)] if route.revisions else []
    unavailable = [_answer(match, 503, "no release is being served here") for match in allowed if not served]
    return typed(
        "config.route.v3.RouteConfiguration",
        {
            "name": ROUTE_NAME,
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "metadata": {"filter_metadata": {_METADATA: {"json": json.dumps(asdict(route), sort_keys=True)}}},
                    "routes": [
                        *denied,
                        *served,
                        *unavailable,
                        _answer({"prefix": "/"}, 404, unknown),
                    ],
                    "retry_policy": {
                        # Nothing of an answer was sent yet in any of these cases. Once only: a request that kills a server
                        # must not go through all of them.
                        "retry_on": "connect-failure,refused-stream,reset,reset-before-request",
                        "num_retries": 1,
                        "retry_host_predicate": [
                            {
                                "name": "envoy.retry_host_predicates.previous_hosts",
                                "typed_config": typed("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
                            }
                        ],
                        "host_selection_retry_max_attempts": 16,
                    },
                }
            ],
            # The gateway's key is for the gateway: servers and copies of requests do not get it.
            "request_headers_to_remove": [
                *(["authorization", "x-api-key"] if settings.api_keys else []),
                *(CREDENTIAL_HEADER, REVISION_HEADER),
            ],
        },
    )


def shadow_routes(route: Route) -> Json:
    """Where copies of requests go: all to one revision."""
    known = route.mirror and route.mirror_percent
    action: Json = {"route": {"cluster": cluster_name(route.mirror), **_streaming()}, **_told(route.mirror)} if known else {}
    nowhere = {"direct_response": {"status": 503}}
    return typed(
        "config.route.v3.RouteConfiguration",
        {
            "name": SHADOW,
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **(action or nowhere)}]},
            ],
        },
    )


def route_of(configuration: Mapping[str, Any]) -> Route:
    """The route that a route configuration was made from."""
    kept = configuration["virtual_hosts"][0]["metadata"]["filter_metadata"][_METADATA]["json"]
    return Route(**json.loads(kept))


def _allowed(path: Json, route: Route, asleep: str) -> Iterable[Json]:
    """Routes for one allowed path: those by header first, then the shares."""
    for value, revision in sorted(route.headers.items()):
        header = {"name": REVISION_HEADER, "string_match": {"exact": value}}
        match = {**path, "headers": [*path["headers"], header]}
        waits = {"typed_per_filter_config": waker.switched_on()} if revision == asleep else {}
        yield {"match": match, **_told(revision), "route": {"cluster": cluster_name(revision), **_streaming()}, **waits}
    shares = {revision: share for revision, share in sorted(route.weights.items()) if share}
    if shares and route.mirror and route.mirror_percent:
        # A route of its own for the requests that are copied, so that both answers to them can be recorded, and no others.
        share = {"default_value": {"numerator": route.mirror_percent, "denominator": "HUNDRED"}}
        copied = {"cluster": SHADOW, "trace_sampled": False, "disable_shadow_host_suffix_append": True}
        action = {**_weighted(shares), "request_mirror_policies": [copied], **_streaming()}
        yield {"match": {**path, "runtime_fraction": share}, "route": action, "typed_per_filter_config": switched_on()}
    if shares:
        waits = {"typed_per_filter_config": waker.switched_on()} if asleep in shares else {}
        yield {"match": path, "route": {**_weighted(shares), **_streaming()}, **waits}


def _weighted(shares: Mapping[str, int]) -> Json:
    each = [{"name": cluster_name(revision), "weight": share, **_told(revision)} for revision, share in shares.items()]
    return {"weighted_clusters": {"clusters": each}}


def _streaming() -> Json:
    """A stream may take as long as it likes; the limit of its silence is set for the whole listener."""
    return {"timeout": "0s", "cluster_not_found_response_code": "SERVICE_UNAVAILABLE"}


def _told(revision: str) -> Json:
    """The header of answers that tells which revision gave them."""
    header = {"header": {"key": REVISION_HEADER, "value": revision}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {"response_headers_to_add": [header]}


def _match(path: str, protocol: Wire) -> Json:
    """A path, or everything below one (``/v1/*``), with a method that the API has; of gRPC, only requests that are gRPC."""
    method: Json = {"exact": "POST"} if protocol == "grpc" else {"safe_regex": {"regex": _METHODS}}
    rest: Json = {"headers": [{"name": ":method", "string_match": method}], **({"grpc": {}} if protocol == "grpc" else {})}
    return {"prefix": path[:-1], **rest} if path.endswith("/*") else {"path": path, **rest}


def _denied(path: str) -> Iterable[Json]:
    """A path and everything below it, with any method: servers may ignore a slash at the end."""
    return [{"prefix": path[:-1]}] if path.endswith("/*") else [{"path": path}, {"prefix": f"{path}/"}]


def _answer(match: Json, status: int, text: str) -> Json:
    """An answer of the gateway's own, for which no key is needed."""
    open_to_all = {FILTER: typed("config.route.v3.FilterConfig", {"config": {}, "disabled": True})}
    answer = {"status": status, "body": {"inline_string": text}}
    return {"match": match, "direct_response": answer, "typed_per_filter_config": open_to_all if status == 404 else {}}
