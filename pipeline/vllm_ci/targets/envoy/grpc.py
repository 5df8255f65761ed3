"""What gRPC needs of the gateway: errors as a status and a message, with the HTTP status 200, and counts of statuses.

Envoy translates the statuses of its own errors; https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md has no
entry for those that are named here.
"""

from __future__ import annotations

from vllm_ci.targets.envoy.files import Json, typed

_RESOURCE_EXHAUSTED = 8
_NO_KEY = "no valid API key: send one as metadata `authorization: Bearer KEY`"


def counting() -> Json:
    """The filter that counts calls by the status with which they end, for each release (``envoy_cluster_grpc_13``)."""
    content = typed("extensions.filters.http.grpc_stats.v3.FilterConfig", {"stats_for_all_methods": False})
    return {"name": "vllm_ci.grpc_stats", "typed_config": content}


def errors() -> Json:
    """How the gateway's own errors are told."""
    exhausted = {"header": {"key": "grpc-status", "value": str(_RESOURCE_EXHAUSTED)}}
    too_large = {"filter": _status(413), "body_format_override": _text("the request is too large")}
    return {
        "body_format": _text("%LOCAL_REPLY_BODY%"),
        "mappers": [
            {"filter": _status(401), "body_format_override": _text(_NO_KEY)},
            {**too_large, "headers_to_add": [{**exhausted, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]},
        ],
    }


def _status(code: int) -> Json:
    value = {"default_value": code, "runtime_key": f"vllm_ci.grpc_{code}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _text(message: str) -> Json:
    return {"text_format_source": {"inline_string": message}}
