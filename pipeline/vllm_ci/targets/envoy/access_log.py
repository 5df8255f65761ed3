"""The access log: one line of JSON for each request that ended. No prompts, no answers, no keys, no query strings."""

from __future__ import annotations

from vllm_ci.targets.envoy.authentication import KEY_HEADER
from vllm_ci.targets.envoy.files import ACCESS_LOG, Json, typed

_FIELDS = {
    "time": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID):64%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "key": f"%REQ({KEY_HEADER}):64%",
    "method": "%REQ(:METHOD):16%",
    "path": "%PATH(NQ:PATH:256)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS_NUMBER%",
    "flags": "%RESPONSE_FLAGS%",
    "detail": "%RESPONSE_CODE_DETAILS%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "replica": "%UPSTREAM_REMOTE_ADDRESS%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "ended_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
    "first_byte_us": "%COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:us)%",
}


def access_log(listener: str) -> list[Json]:
    """Where a listener logs to."""
    form = {"json_format": {**_FIELDS, "listener": listener}, "omit_empty_values": False}
    return [
        {
            "name": "file",
            "typed_config": typed("extensions.access_loggers.file.v3.FileAccessLog", {"path": ACCESS_LOG, "log_format": form}),
        }
    ]
