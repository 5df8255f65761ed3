"""What the gateway listens on: for users, for checks from this machine, and for metrics."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.targets.envoy import access_log, authentication, grpc, token_limit, waker
from vllm_ci.targets.envoy.bootstrap import ADMIN_CLUSTER
from vllm_ci.targets.envoy.bucket import per_minute
from vllm_ci.targets.envoy.files import CERTIFICATE, ROUTE_NAME, SHADOW_ROUTES, Json, typed, watched
from vllm_ci.targets.envoy.tap import REQUESTS, SHADOW, SHADOW_HEADER, SHADOW_SOCKET, tap

_CERTIFICATE = "gateway"


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Ports in use; 0: there is no such listener."""

    gateway: int
    checks: int
    metrics: int


def listeners(settings: GatewaySettings, ports: Ports) -> list[Json]:
    """All listeners. They depend on settings only: routes, keys and certificate change without touching them."""
    chain = _tls(settings) if settings.tls is not None else None
    found = [_listener("gateway", settings.host, ports.gateway, _gateway(settings), tls=chain)]
    if ports.checks:
        found.append(_listener("checks", "127.0.0.1", ports.checks, _manager("checks", settings, _rest(settings))))
    found.append(_listener_at(SHADOW, {"pipe": {"path": SHADOW_SOCKET, "mode": 0o600}}, _shadow()))
    return [*found, _listener("metrics", "127.0.0.1", ports.metrics, _metrics(scaling=settings.waiting is not None))]


def certificate(settings: GatewaySettings) -> Json:
    """The certificate, which is read again when files in its directory are renamed over."""
    if settings.tls is None:
        raise ValueError("there is no certificate")
    chain, key = settings.tls.certificate, settings.tls.key
    files = {
        "certificate_chain": {"filename": str(chain)},
        "private_key": {"filename": str(key)},
        "watched_directory": {"path": str(chain.parent)},
    }
    return typed("extensions.transport_sockets.tls.v3.Secret", {"name": _CERTIFICATE, "tls_certificate": files})


def _listener(name: str, host: str, port: int, manager: Json, *, tls: Json | None = None) -> Json:
    return _listener_at(name, {"socket_address": {"address": host, "port_value": port}}, manager, tls=tls)


def _listener_at(name: str, address: Json, manager: Json, *, tls: Json | None = None) -> Json:
    chain: Json = {"filters": [{"name": "http", "typed_config": manager}]}
    if tls is not None:
        chain["transport_socket"] = {"name": "tls", "typed_config": tls}
    return typed(
        "config.listener.v3.Listener",
        {
            "name": name,
            "address": address,
            "per_connection_buffer_limit_bytes": 1024 * 1024,
            "filter_chains": [chain],
        },
    )


def _tls(settings: GatewaySettings) -> Json:
    parameters = {"tls_minimum_protocol_version": "TLSv1_2"}
    secret = {"name": _CERTIFICATE, "sds_config": watched(CERTIFICATE)}
    common = {
        "tls_params": parameters,
        "alpn_protocols": ["h2"] if settings.protocol == "grpc" else ["h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": [secret],
    }
    return typed("extensions.transport_sockets.tls.v3.DownstreamTlsContext", {"common_tls_context": common})


def _gateway(settings: GatewaySettings) -> Json:
    keys = authentication.filters() if settings.api_keys else []
    tokens = token_limit.filters(settings.tokens_per_minute)
    recorded = [tap(on=True, name=REQUESTS)] if settings.log_requests else []
    return _manager("gateway", settings, [*keys, *_rate_limit(settings), *tokens, tap(on=False), *recorded, *_rest(settings)])


def _shadow() -> Json:
    """For copies, which were let through already: they keep their id and are marked, so that they can be told apart."""
    header = {"header": {"key": SHADOW_HEADER, "value": "1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        {
            "stat_prefix": SHADOW,
            "rds": {"route_config_name": SHADOW, "config_source": watched(SHADOW_ROUTES)},
            "http_filters": [tap(on=True), _router()],
            "early_header_mutation_extensions": [_mutated({"append": header})],
            "stream_idle_timeout": "3600s",
            "access_log": access_log.access_log(SHADOW),
        },
    )


def _manager(name: str, settings: GatewaySettings, filters: list[Json]) -> Json:
    return typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        {
            "stat_prefix": name,
            # A client of HTTP/1.1 would take an answer for whole that lacks its last lines, in which gRPC tells how it ended.
            "codec_type": "HTTP2" if settings.protocol == "grpc" else "AUTO",
            "rds": {"route_config_name": ROUTE_NAME, "config_source": watched("routes.json")},
            "http_filters": filters,
            **_hardened(settings),
            "access_log": access_log.access_log(name),
            "local_reply_config": grpc.errors() if settings.protocol == "grpc" else _errors(),
        },
    )


def _hardened(settings: GatewaySettings) -> Json:
    """Settings for a proxy that strangers reach (Envoy's "Configuring Envoy as an edge proxy")."""
    return {
        "early_header_mutation_extensions": [_without_ours()],
        "use_remote_address": True,
        "xff_num_trusted_hops": settings.trusted_proxies,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "strip_any_host_port": True,
        "generate_request_id": True,
        "always_set_request_id_in_response": True,
        "server_header_transformation": "OVERWRITE",
        "server_name": "vllm-ci",
        "max_request_headers_kb": settings.max_header_bytes // 1024,
        "common_http_protocol_options": {
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_headers_count": settings.max_headers,
            "idle_timeout": "300s",
        },
        "http_protocol_options": {"allow_chunked_length": False},
        "http2_protocol_options": {
            "max_concurrent_streams": 256,
            "initial_stream_window_size": 65536,
            "initial_connection_window_size": 1048576,
        },
        "request_headers_timeout": "10s",
        "request_timeout": "120s",  # until the whole request is here
        "stream_idle_timeout": f"{settings.idle_timeout_s:g}s",
        "delayed_close_timeout": "5s",
    }


def _without_ours() -> Json:
    """Take out the headers by which the gateway's own filters tell each other who asks."""
    names = (authentication.CREDENTIAL_HEADER, authentication.KEY_HEADER, SHADOW_HEADER)
    return _mutated(*({"remove": name} for name in names))


def _mutated(*mutations: Json) -> Json:
    kind = "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    content = typed(kind, {"mutations": list(mutations)})
    return {"name": "envoy.http.early_header_mutation.header_mutation", "typed_config": content}


def _rate_limit(settings: GatewaySettings) -> list[Json]:
    if not settings.requests_per_minute:
        return []
    by_key = {"request_headers": {"header_name": authentication.KEY_HEADER, "descriptor_key": "client"}}
    by_address: Json = {"masked_remote_address": {}}
    bucket = per_minute(settings.requests_per_minute)
    entry = {"key": "client" if settings.api_keys else "masked_remote_address"}
    everyone = {"max_tokens": 2**31, "tokens_per_fill": 2**31, "fill_interval": "1s"}
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    limit = {
        "stat_prefix": "rate_limit",
        "token_bucket": everyone,
        "filter_enabled": always,
        "filter_enforced": always,
        "rate_limits": [{"actions": [by_key if settings.api_keys else by_address]}],
        "descriptors": [{"entries": [entry], "token_bucket": bucket}],
        "max_dynamic_descriptors": 4096,
        "rate_limited_as_resource_exhausted": True,  # what a request of gRPC gets
        "response_headers_to_add": [{"header": {"key": "retry-after", "value": str(_ceil(bucket["fill_interval"]))}}],
    }
    name = "extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
    return [{"name": "vllm_ci.rate_limit", "typed_config": typed(name, limit)}]


def _ceil(interval: object) -> int:
    return -int(-float(str(interval).rstrip("s")) // 1)


def _rest(settings: GatewaySettings) -> list[Json]:
    buffer = typed("extensions.filters.http.buffer.v3.Buffer", {"max_request_bytes": settings.max_body_bytes})
    # A body is taken whole before its request waits: Envoy's time for that goes on meanwhile.
    counted = [grpc.counting()] if settings.protocol == "grpc" else []
    return [{"name": "vllm_ci.body_limit", "typed_config": buffer}, *waker.filters(settings.waiting), *counted, _router()]


def _router() -> Json:
    return {
        "name": "router",
        "typed_config": typed("extensions.filters.http.router.v3.Router", {"suppress_envoy_headers": True}),
    }


def _errors() -> Json:
    """Errors of the gateway in the form of the OpenAI API."""
    challenge = {"header": {"key": "www-authenticate", "value": "Bearer"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    status = {"comparison": {"op": "EQ", "value": {"default_value": 401, "runtime_key": "vllm_ci.unauthorized"}}}
    form = _error("%LOCAL_REPLY_BODY%")
    no_key = _error("no valid API key: send one as `Authorization: Bearer KEY`")
    mapper = {"filter": {"status_code_filter": status}, "headers_to_add": [challenge], "body_format_override": no_key}
    return {"body_format": form, "mappers": [mapper, waker.refused(form)]}


def _error(message: str) -> Json:
    error = {"message": message, "type": "gateway_error", "param": None, "code": "%RESPONSE_CODE%"}
    return {"json_format": {"error": error}, "content_type": "application/json"}


def _metrics(*, scaling: bool) -> Json:
    """Prometheus metrics, and nothing else of the admin interface; ``scaling``: those of the waker as well."""
    get = {"name": ":method", "string_match": {"exact": "GET"}}
    route = {
        "match": {"path": "/metrics", "headers": [get]},
        "route": {"cluster": ADMIN_CLUSTER, "prefix_rewrite": "/stats/prometheus?usedonly"},
    }
    starts = {"match": {"path": waker.METRICS_PATH, "headers": [get]}, "route": {"cluster": waker.WAKER}}
    nothing = {"match": {"prefix": "/"}, "direct_response": {"status": 404}}
    routes = [route, starts, nothing] if scaling else [route, nothing]
    return typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        {
            "stat_prefix": "metrics",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
            "http_filters": [_router()],
        },
    )
